// Prints how close two texts are in meaning.
package main

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/basetenlabs/bei-runtime/backend"
)

func main() {
	ctx := context.Background()
	b, err := backend.Open(ctx, backend.Config{Model: os.Args[1], Log: backend.LogConfig{Level: "error"}})
	if err != nil {
		log.Fatal(err)
	}
	texts := []backend.Text{{Text: "A cat sits on the mat."}, {Text: "There is a cat on the rug."}}
	d := int(b.Info().Dimensions)
	rows := make([]float32, len(texts)*d)
	if err := b.EmbedTexts(ctx, texts, backend.CallOptions{}, backend.Output{Rows: rows}); err != nil {
		log.Fatal(err)
	}
	var cosine float32
	for i := range d {
		cosine += rows[i] * rows[d+i]
	}
	fmt.Printf("%d dimensions, cosine %.4f\n", d, cosine)
	if err := b.Close(ctx); err != nil {
		log.Fatal(err)
	}
}
