package onnx

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func write(t *testing.T, file, text string) {
	require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o700))
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
}

func TestPhysicalCores(t *testing.T) {
	sysfs := t.TempDir()
	for cpu, place := range [][2]int{{0, 0}, {0, 1}, {1, 0}, {1, 1}, {0, 0}, {0, 1}, {1, 0}, {1, 1}} { // two sockets of two cores of two threads
		write(t, fmt.Sprintf("%s/cpu%d/topology/physical_package_id", sysfs, cpu), fmt.Sprintln(place[0]))
		write(t, fmt.Sprintf("%s/cpu%d/topology/core_id", sysfs, cpu), fmt.Sprintln(place[1]))
	}
	require.Equal(t, 4, physicalCores(sysfs, []int{0, 1, 2, 3, 4, 5, 6, 7}))
	require.Equal(t, 1, physicalCores(sysfs, []int{1, 5}))
	require.Equal(t, 2, physicalCores(sysfs, []int{0, 1}))
	require.Equal(t, 3, physicalCores(t.TempDir(), []int{0, 1, 9}), "without a topology each CPU is a core")
	require.NotEmpty(t, allowedCPUs())
	require.Positive(t, defaultThreads())
}

func TestCPUQuota(t *testing.T) {
	for name, c := range map[string]struct {
		self  string
		files map[string]string
		want  int
	}{
		"none":                     {"0::/\n", map[string]string{"cpu.max": "max 100000\n"}, 0},
		"version 2":                {"0::/a/b\n", map[string]string{"a/b/cpu.max": "250000 100000\n"}, 3},
		"of a parent":              {"0::/a/b\n", map[string]string{"a/b/cpu.max": "max 100000\n", "a/cpu.max": "100000 100000\n"}, 1},
		"the tightest":             {"0::/a/b\n", map[string]string{"a/b/cpu.max": "300000 100000\n", "a/cpu.max": "200000 100000\n", "cpu.max": "900000 100000"}, 2},
		"seen from in a container": {"0::/\n", map[string]string{"cpu.max": "50000 100000\n"}, 1},
		"version 1": {"4:memory:/a\n3:cpu,cpuacct:/a\n", map[string]string{
			"cpu,cpuacct/a/cpu.cfs_quota_us": "400000\n", "cpu,cpuacct/a/cpu.cfs_period_us": "100000\n"}, 4},
		"version 1 without": {"3:cpu,cpuacct:/\n", map[string]string{
			"cpu,cpuacct/cpu.cfs_quota_us": "-1\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n"}, 0},
		"garbage": {"x\n0::/a\n", map[string]string{"a/cpu.max": "many 5", "cpu.max": "5 0"}, 0},
		"no file": {"", nil, 0},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			for file, text := range c.files {
				write(t, filepath.Join(root, file), text)
			}
			self := filepath.Join(t.TempDir(), "cgroup")
			if c.self != "" {
				write(t, self, c.self)
			}
			require.Equal(t, c.want, cpuQuota(root, self))
		})
	}
}
