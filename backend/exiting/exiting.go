// Package exiting keeps exit() from destroying the statics of libraries that other threads are in. Its functions are C, for the C sides
// of the engines: see exiting.h.
package exiting

// #cgo CFLAGS: -std=gnu11 -O2 -Wall -Wextra
// #cgo LDFLAGS: -lpthread
import "C"
