package pipeline

import "container/heap"

// class is the calls of one priority. Classes share the engine by weight, and calls share their class equally, however many they
// are: both by finish tags. Its fields are guarded by Pipeline.mu.
type class struct {
	weight     float64
	ready      callHeap // calls with ready items, least finish tag first
	virtualNow float64  // finish tag of the item of the class served last; newly ready calls begin here
	served     float64  // finish tag among classes, of the item served last or where the class began
}

// joins reports whether a run may hold items of both calls.
func (c *call) joins(other *call) bool { return c == other || !c.alone && !other.alone }

// add takes a call with ready items in. now is the pipeline's virtual time, where a class begins that had none.
func (k *class) add(c *call, now float64) {
	if len(k.ready) == 0 {
		k.served = max(k.served, now)
	}
	c.served = max(c.served, k.virtualNow)
	c.tagHead()
	k.ready.add(c)
}

// finish is the tag, among classes, of the item that is next.
func (k *class) finish() float64 { return k.served + float64(k.ready[0].headTokens())/k.weight }

// nextClass is the class with the least finish tag, the higher one where they are equal; nil where no item is ready.
func (p *Pipeline) nextClass() (next *class) {
	for i := range p.classes {
		if k := &p.classes[i]; len(k.ready) > 0 && (next == nil || k.finish() <= next.finish()) {
			next = k
		}
	}
	return next
}

// callHeap holds the calls with ready items, least finish tag first, the earlier call first where tags are equal. add, drop
// and fix keep call.inHeap right.
type callHeap []*call

func (h callHeap) Len() int { return len(h) }
func (h callHeap) Less(i, j int) bool {
	if h[i].finish != h[j].finish {
		return h[i].finish < h[j].finish
	}
	return h[i].number < h[j].number
}
func (h callHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].heapIndex, h[j].heapIndex = i, j
}

// Push and Pop are heap.Interface's.
func (h *callHeap) Push(x any) {
	c := x.(*call)
	c.heapIndex = len(*h)
	*h = append(*h, c)
}

// Pop removes the last element.
func (h *callHeap) Pop() any {
	old := *h
	c := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return c
}

func (h *callHeap) add(c *call)  { c.inHeap = true; heap.Push(h, c) }
func (h *callHeap) drop(c *call) { c.inHeap = false; heap.Remove(h, c.heapIndex) }
func (h *callHeap) fix(c *call)  { heap.Fix(h, c.heapIndex) }

// callRing is a queue of calls that take turns.
type callRing struct{ calls []*call }

func (r *callRing) empty() bool { return len(r.calls) == 0 }

func (r *callRing) push(c *call) {
	c.inRing = true
	r.calls = append(r.calls, c)
}

func (r *callRing) pop() *call {
	c := r.calls[0]
	c.inRing = false
	copy(r.calls, r.calls[1:])
	r.calls[len(r.calls)-1] = nil
	r.calls = r.calls[:len(r.calls)-1]
	return c
}

func (r *callRing) drop(c *call) {
	for i := range r.calls {
		if r.calls[i] == c {
			copy(r.calls[i:], r.calls[i+1:])
			r.calls[len(r.calls)-1] = nil
			r.calls = r.calls[:len(r.calls)-1]
			c.inRing = false
			return
		}
	}
}
