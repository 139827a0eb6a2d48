package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/basetenlabs/bei-runtime/backend"
)

func newInfoCommand() *cobra.Command {
	var flags openFlags
	var schema, text bool
	c := &cobra.Command{
		Use:   "info MODEL",
		Short: "Tell what a model is and how it runs here",
		Long: `info opens MODEL and prints what is known of it as one JSON object: its kind, modules, prompts and limits, each
decision with the file and key that made it, the engine that runs it here and why it was chosen (with measured times, where there was a
choice), and what the engine chose. Of a folder that cannot be served it prints what its files decide, and all that keeps it from being
served. With --text it prints the decisions as a table.`,
		Example: `  bei info models/all-MiniLM-L6-v2
  bei info --text models/all-MiniLM-L6-v2
  bei info models/all-MiniLM-L6-v2 --options '{"max_length": 128}'
  bei info --schema`,
		Args: func(c *cobra.Command, args []string) error {
			if schema {
				return cobra.NoArgs(c, args)
			}
			return oneModel(c, args)
		},
		RunE: func(c *cobra.Command, args []string) error {
			if schema {
				_, err := fmt.Fprint(c.OutOrStdout(), backend.Schema())
				return err
			}
			config, err := flags.config(args[0])
			if err != nil {
				return err
			}
			b, err := backend.Open(c.Context(), config)
			if err != nil {
				return errors.Join(err, printInfo(c.OutOrStdout(), text, backend.Explain(c.Context(), config)))
			}
			defer func() { _ = b.Close(context.Background()) }()
			if text {
				return printInfo(c.OutOrStdout(), text, b.Explanation())
			}
			info, err := b.InfoJSON()
			if err != nil {
				return err
			}
			return printInfo(c.OutOrStdout(), false, json.RawMessage(info))
		},
	}
	flags.register(c)
	flags.registerEngine(c)
	c.Flags().BoolVar(&text, "text", false, "print the decisions of the model's files as a table instead")
	c.Flags().BoolVar(&schema, "schema", false, "print the JSON Schema of --options instead")
	return c
}

// printInfo prints a value as JSON, or as text where it has one.
func printInfo(w io.Writer, text bool, value any) error {
	if e, ok := value.(backend.Explanation); ok && text {
		_, err := io.WriteString(w, e.Text())
		return err
	}
	pretty, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(w, string(pretty))
	return err
}
