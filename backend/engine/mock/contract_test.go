package mock

import (
	"testing"

	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/engine/suite"
)

func TestContract(t *testing.T) {
	var sequences []suite.Sequence
	for _, n := range []int{1, 4, 7} {
		q := suite.Sequence{}
		for i := range n {
			q.IDs, q.Types, q.Positions = append(q.IDs, int32(7*n+i)), append(q.Types, 0), append(q.Positions, int32(i))
		}
		sequences = append(sequences, q)
	}
	suite.Contract(t, func(t *testing.T, l engine.Limits) engine.Engine {
		e := Open(Config{}, 2, l)
		return e
	}, sequences, suite.Exact)
}
