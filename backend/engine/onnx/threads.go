package onnx

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// defaultThreads is the number of physical cores that this process may use: hyper-threads of one core share its
// arithmetic units and only get in each other's way here. A CPU quota (cgroup) lowers it.
func defaultThreads() int {
	n := physicalCores("/sys/devices/system/cpu", allowedCPUs())
	if quota := cpuQuota("/sys/fs/cgroup", "/proc/self/cgroup"); quota > 0 {
		n = min(n, quota)
	}
	return max(n, 1)
}

// allowedCPUs returns the CPUs of the process's affinity.
func allowedCPUs() []int {
	var set unix.CPUSet
	var cpus []int
	if unix.SchedGetaffinity(os.Getpid(), &set) == nil {
		for i := range 8 * len(set) * strconv.IntSize / 8 {
			if set.IsSet(i) {
				cpus = append(cpus, i)
			}
		}
	}
	if cpus == nil {
		for i := range runtime.NumCPU() {
			cpus = append(cpus, i)
		}
	}
	return cpus
}

// physicalCores counts the different cores of cpus. Where the system does not tell, each CPU is one.
func physicalCores(sysfs string, cpus []int) int {
	cores := make(map[string]bool)
	for _, cpu := range cpus {
		topology := fmt.Sprintf("%s/cpu%d/topology/", sysfs, cpu)
		physical, err1 := os.ReadFile(topology + "physical_package_id")
		core, err2 := os.ReadFile(topology + "core_id")
		if err1 != nil || err2 != nil {
			cores[fmt.Sprint("cpu", cpu)] = true
			continue
		}
		cores[string(physical)+string(core)] = true
	}
	return len(cores)
}

// cpuQuota returns the CPUs of the tightest quota of the process's cgroup and its ancestors (version 2: cpu.max,
// version 1: cpu.cfs_quota_us), rounded up; 0: none. Formats: https://docs.kernel.org/admin-guide/cgroup-v2.html.
func cpuQuota(root, self string) int {
	list, err := os.ReadFile(self)
	if err != nil {
		return 0
	}
	least := 0
	for line := range strings.Lines(string(list)) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) != 3 {
			continue
		}
		base := root
		if fields[1] != "" { // version 1: one hierarchy for each set of controllers
			if !strings.Contains(","+fields[1]+",", ",cpu,") {
				continue
			}
			base += "/" + fields[1]
		}
		for path := fields[2]; ; path = path[:strings.LastIndexByte(path, '/')] {
			if n := folderQuota(base + path); n > 0 && (least == 0 || n < least) {
				least = n
			}
			if !strings.Contains(path, "/") {
				break
			}
		}
	}
	return least
}

// folderQuota reads the quota of one cgroup folder; 0: none.
func folderQuota(folder string) int {
	var fields []string
	if b, err := os.ReadFile(folder + "/cpu.max"); err == nil {
		fields = strings.Fields(string(b))
	} else {
		quota, err1 := os.ReadFile(folder + "/cpu.cfs_quota_us")
		period, err2 := os.ReadFile(folder + "/cpu.cfs_period_us")
		if err1 != nil || err2 != nil {
			return 0
		}
		fields = []string{strings.TrimSpace(string(quota)), strings.TrimSpace(string(period))}
	}
	if len(fields) != 2 {
		return 0
	}
	quota, err1 := strconv.Atoi(fields[0]) // "max" is no number
	period, err2 := strconv.Atoi(fields[1])
	if err1 != nil || err2 != nil || quota <= 0 || period <= 0 {
		return 0
	}
	return (quota + period - 1) / period
}
