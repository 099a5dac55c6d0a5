// SPDX-License-Identifier: Apache-2.0
//
// A server measured through a device of the kernel, /dev/nbdN.

#ifndef BENCH_KERNEL_DISK_H_
#define BENCH_KERNEL_DISK_H_

#include <memory>

#include "absl/status/statusor.h"
#include "bench/contestant.h"
#include "bench/subjects.h"

namespace buse::bench {

// Whether this machine has kernel devices for the benchmark. kNotFound: no nbd in this kernel; kPermissionDenied: not root.
absl::Status CheckKernelDisks();

// Starts a subject on a kernel device of its own that is free, and gives that known contents. A measurement has fio on the
// device. The device is free again in the end. The settings must outlive it.
// Errors: those of CheckKernelDisks, and kNotFound where a program is not installed.
absl::StatusOr<std::unique_ptr<Contestant>> AttachKernelDisk(const Subject& subject, const Settings& settings);

}  // namespace buse::bench

#endif  // BENCH_KERNEL_DISK_H_
