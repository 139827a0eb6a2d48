package arch

import (
	"encoding/json"
	"strconv"

	"github.com/basetenlabs/bei-runtime/backend/status"
)

const maxLabels = 1 << 20

// labels returns the labels of a classifier by index: of id2label, whose keys must be 0 to n-1; without it num_labels (2 by default) of
// them named LABEL_i, as transformers does.
func (o *object) labels() []string {
	var byID map[string]json.RawMessage
	if !o.get("id2label", "an object of strings", &byID) || len(byID) == 0 {
		n := o.integer("num_labels", 2, 1, maxLabels)
		labels := make([]string, n)
		for i := range labels {
			labels[i] = "LABEL_" + strconv.Itoa(i)
		}
		return labels
	}
	if len(byID) > maxLabels {
		o.fail(status.Start, "id2label has %d labels; the limit is %d", len(byID), maxLabels)
		return nil
	}
	labels := make([]string, len(byID))
	for i := range labels {
		raw, ok := byID[strconv.Itoa(i)]
		if !ok {
			o.fail(status.Start, "id2label has %d labels but no key \"%d\"; its keys must be 0 to %d", len(byID), i, len(byID)-1)
			return nil
		}
		if err := json.Unmarshal(raw, &labels[i]); err != nil || string(raw) == "null" {
			o.fail(status.Start, "id2label[\"%d\"] is %s; it must be a string", i, quoteJSON(raw))
			return nil
		}
	}
	return labels
}
