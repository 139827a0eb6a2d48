package engine

// Reporter is an Engine that counts what it does. Any goroutine may call Stats, also after Close.
type Reporter interface {
	// Stats returns those of each engine that runs the model: of one, or of all that an engine is made of, always in the same order.
	Stats() []Stats
}

// Stats is what an engine did since it was opened, without the runs that it warmed itself up with, and what it holds. Counts never fall.
type Stats struct {
	Engine        string    // its name: Info.Name, where it is the only one
	Runs          uint64    // calls of Slot.Run with something to compute; one that is repeated on another device counts again
	Launches      uint64    // of the model's program: a run may need several
	Tokens        uint64    // of the launches
	PaddingTokens uint64    // computed beside them, where launches have fixed shapes or sequences are padded to one length
	Graphs        *Graphs   // nil: it launches without CUDA graphs
	Replicas      []Replica // one for each device that the options name; one on the CPU
}

// Graphs counts launches by what CUDA graphs did for them. The rest of Stats.Launches had none.
type Graphs struct {
	Replays  uint64 // a graph was there
	Captures uint64 // a graph had to be made first
}

// Replica is a copy of the model on a device.
type Replica struct {
	Device       string // "cuda:0", "cpu"
	Serving      bool   // it takes runs: it is not lost, not being rebuilt and not closed
	WeightsBytes uint64 // device memory that its weights take while it serves; 0: not known
	RunBytes     uint64 // device memory that is kept for each run in flight; 0: not known
}
