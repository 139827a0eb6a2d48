package main

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
)

// vectorWriter writes vectors one after another. Close ends the format; it leaves the file open.
type vectorWriter interface {
	Write(vector []float32) error
	Close() error
}

func newVectorWriter(format string, out io.Writer, columns int) (vectorWriter, error) {
	if format == "npy" {
		return newNpyWriter(out, columns)
	}
	buffered := bufio.NewWriter(out)
	return &jsonWriter{buffered, json.NewEncoder(buffered)}, nil
}

type jsonWriter struct {
	out     *bufio.Writer
	encoder *json.Encoder
}

func (w *jsonWriter) Write(vector []float32) error { return w.encoder.Encode(vector) }

func (w *jsonWriter) Close() error { return w.out.Flush() }

// npyWriter writes numpy's format, version 1.0 (numpy.lib.format): a header of fixed size, then rows. The number of rows is
// known at the end only: until then zeros stand for the header, which numpy refuses, so that an unfinished file is no matrix.
type npyWriter struct {
	file    io.WriteSeeker
	out     *bufio.Writer
	columns int
	rows    int
}

// npyHeaderSize is a multiple of 64, as the format wants, with room for any number of rows.
const npyHeaderSize = 128

func newNpyWriter(out io.Writer, columns int) (*npyWriter, error) {
	file, ok := out.(io.WriteSeeker)
	if ok {
		_, err := file.Seek(0, io.SeekCurrent)
		ok = err == nil
	}
	if !ok {
		return nil, fmt.Errorf("--format npy needs a file, not a pipe or terminal: use --output FILE")
	}
	w := &npyWriter{file: file, out: bufio.NewWriter(file), columns: columns}
	_, err := w.out.Write(make([]byte, npyHeaderSize))
	return w, err
}

func (w *npyWriter) writeHeader() error {
	const magic = "\x93NUMPY\x01\x00"
	dict := fmt.Sprintf("{'descr': '<f4', 'fortran_order': False, 'shape': (%d, %d), }", w.rows, w.columns)
	size := npyHeaderSize - len(magic) - 2
	header := binary.LittleEndian.AppendUint16([]byte(magic), uint16(size))
	header = fmt.Appendf(header, "%-*s\n", size-1, dict)
	_, err := w.out.Write(header)
	return err
}

func (w *npyWriter) Write(vector []float32) error {
	w.rows++
	return binary.Write(w.out, binary.LittleEndian, vector)
}

func (w *npyWriter) Close() error {
	if err := w.out.Flush(); err != nil {
		return err
	}
	size, err := w.file.Seek(0, io.SeekCurrent)
	if err != nil {
		return err
	}
	start := size - int64(npyHeaderSize+4*w.rows*w.columns)
	if _, err := w.file.Seek(start, io.SeekStart); err != nil {
		return err
	}
	if err := w.writeHeader(); err != nil {
		return err
	}
	if err := w.out.Flush(); err != nil {
		return err
	}
	_, err = w.file.Seek(size, io.SeekStart)
	return err
}
