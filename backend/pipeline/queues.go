package pipeline

import "container/heap"

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
