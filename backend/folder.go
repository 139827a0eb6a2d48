package backend

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"slices"

	"go.uber.org/zap"

	"github.com/basetenlabs/bei-runtime/backend/arch"
	"github.com/basetenlabs/bei-runtime/backend/calibration"
	"github.com/basetenlabs/bei-runtime/backend/hub"
	"github.com/basetenlabs/bei-runtime/backend/manifest"
	"github.com/basetenlabs/bei-runtime/backend/status"
	"github.com/basetenlabs/bei-runtime/backend/tokenize"
)

// findFolder finds the model's folder: the one that the config names, or, where there is none of that name and it can be a hub's id,
// that of a hub's cache.
func (b *Backend) findFolder(ctx context.Context) error {
	c := &b.config
	if c.Model == "" {
		return nil
	}
	if _, err := os.Stat(c.Model); errors.Is(err, fs.ErrNotExist) && hub.IsID(c.Model) {
		return b.fetch(ctx)
	}
	if err := checkFolder(c.Model); err != nil {
		return err
	}
	if c.Revision != "" {
		return status.Errorf(status.InvalidArgument, "options: revision %q is for models of a hub, and model %q is a folder", c.Revision, c.Model)
	}
	b.folder = c.Model
	return nil
}

// modelFiles are the names of the files, other than weights, that a model is read from.
func modelFiles() []string {
	return slices.Concat(arch.Files(), []string{tokenize.FileName, calibration.FileName, manifest.FileName})
}

// fetch finds the model's folder in the hub's cache.
func (b *Backend) fetch(ctx context.Context) error {
	c := &b.config
	s, err := hub.Fetch(ctx, hub.Request{ID: c.Model, Revision: c.Revision, Endpoint: c.Hub.Endpoint, Token: c.Hub.Token, Cache: c.Hub.Cache,
		Offline: c.Hub.Offline, Files: modelFiles(), Progress: c.Hub.Progress, Log: b.log})
	if err != nil {
		return status.Errorf(status.Of(err, status.Start).Code, "there is no such folder here, and %w", err)
	}
	b.log.Info("model of a hub", zap.String("model", c.Model), zap.String("commit", s.Commit), zap.String("folder", s.Folder))
	b.folder, b.commit = s.Folder, s.Commit
	return nil
}

// checkFolder tells a wrong path from a folder that lacks a file: a message about the file would mislead.
func checkFolder(folder string) error {
	const want = "it must be a folder with config.json, model.safetensors and tokenizer.json, as Hugging Face keeps a model, " +
		"or a model's id on a hub"
	switch info, err := os.Stat(folder); {
	case errors.Is(err, fs.ErrNotExist):
		return status.Errorf(status.Start, "model %q does not exist; %s", folder, want)
	case err != nil:
		return status.Errorf(status.Start, "model %q: %v; %s", folder, err, want)
	case !info.IsDir():
		return status.Errorf(status.Start, "model %q is a file; %s", folder, want)
	}
	return nil
}
