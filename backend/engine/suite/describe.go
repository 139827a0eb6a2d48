package suite

import (
	"fmt"
	"reflect"
	"strings"

	"github.com/basetenlabs/bei-runtime/backend/arch"
)

// describe writes a Model for people: a field a line, without those that are zero and mean nothing then; of weights their shape.
func describe(m *arch.Model) string {
	var b strings.Builder
	describeValue(&b, "", "Model", reflect.ValueOf(*m))
	return b.String()
}

func describeValue(b *strings.Builder, indent, name string, v reflect.Value) {
	if v.Kind() == reflect.Pointer && !v.IsNil() {
		v = v.Elem()
	} else if v.IsZero() && !strings.HasPrefix(name, "Window") {
		return
	}
	switch tensor, ok := v.Interface().(arch.Tensor); {
	case ok:
		fmt.Fprintf(b, "%s%s: weight %v\n", indent, name, tensor.Shape)
	case v.Kind() == reflect.Struct:
		fmt.Fprintf(b, "%s%s:\n", indent, name)
		for i := range v.NumField() {
			describeValue(b, indent+"  ", v.Type().Field(i).Name, v.Field(i))
		}
	case v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.Struct:
		for i := range v.Len() {
			describeValue(b, indent, fmt.Sprintf("%s[%d]", name, i), v.Index(i))
		}
	default:
		fmt.Fprintf(b, "%s%s: %v\n", indent, name, v.Interface())
	}
}
