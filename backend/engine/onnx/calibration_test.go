package onnx_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/calibration"
	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/engine/onnx"
	"github.com/basetenlabs/bei-runtime/backend/engine/suite"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

// TestMaxima compares with the float64 reference, over every form of linear map that models have, in runs of one sequence and of all.
func TestMaxima(t *testing.T) {
	for _, c := range suite.Synthetic(t) {
		t.Run(c.Name, func(t *testing.T) {
			o := options(t)
			o.Calibrate = true
			e, err := onnx.Open(t.Context(), c.Model, c.Weights, o)
			require.NoError(t, err)
			defer e.Close()
			_, tokens, err := onnx.Maxima(e)
			require.NoError(t, err)
			require.Zero(t, tokens, "opening leaves no trace")

			want, all := suite.Maxima(t, &c), 0
			for _, q := range c.Sequences {
				all += len(q.IDs)
			}
			check := func(runs ...[]suite.Sequence) {
				for i, run := range runs { // on both slots
					_, err := suite.Compute(t.Context(), e.Slots()[i%2], e.Info(), run, e.Info().Outputs)
					require.NoError(t, err)
				}
				amax, tokens, err := onnx.Maxima(e)
				require.NoError(t, err)
				require.EqualValues(t, all, tokens)
				require.Len(t, amax, len(want))
				require.Len(t, calibration.Keys(c.Model), len(want))
				for _, key := range calibration.Keys(c.Model) {
					require.InEpsilon(t, want[key], amax[key], 1e-5, key)
				}
			}
			check(c.Sequences)
			var single [][]suite.Sequence
			for i := range c.Sequences {
				single = append(single, c.Sequences[i:i+1])
			}
			check(single...)
			require.NoError(t, suite.Verify(e, &c, suite.Exact), "the results stay what they are")
		})
	}
}

func TestMaximaNeedCalibration(t *testing.T) {
	c := suite.Synthetic(t)[0]
	e := open(t, c.Model, c.Weights, engine.Limits{})
	_, _, err := onnx.Maxima(e)
	require.Equal(t, status.Unsupported, status.CodeOf(err))
	require.NoError(t, e.Close())
}
