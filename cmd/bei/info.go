package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/basetenlabs/bei-runtime/backend"
)

func newInfoCommand() *cobra.Command {
	var flags openFlags
	var schema bool
	c := &cobra.Command{
		Use:   "info MODEL",
		Short: "Tell what a model is and how it runs here, as JSON",
		Long: `info opens the model MODEL and prints what is known of it as one JSON object: its kind, modules, prompts and limits,
the engine that runs it here and why it was chosen (with measured times, where there was a choice), and what the engine chose.`,
		Example: `  bei info models/all-MiniLM-L6-v2
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
			b, err := flags.open(c.Context(), args[0])
			if err != nil {
				return err
			}
			defer func() { _ = b.Close(context.Background()) }()
			text, err := b.InfoJSON()
			if err != nil {
				return err
			}
			var pretty bytes.Buffer
			if err := json.Indent(&pretty, text, "", "  "); err != nil {
				return err
			}
			_, err = fmt.Fprintln(c.OutOrStdout(), pretty.String())
			return err
		},
	}
	flags.register(c)
	flags.registerEngine(c)
	c.Flags().BoolVar(&schema, "schema", false, "print the JSON Schema of --options instead")
	return c
}
