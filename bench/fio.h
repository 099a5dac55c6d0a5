// SPDX-License-Identifier: Apache-2.0
//
// fio as a client of what is no socket: a file, a kernel device.

#ifndef BENCH_FIO_H_
#define BENCH_FIO_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bench/contestant.h"
#include "bench/work.h"

namespace buse::bench {

// kNotFound: it is not installed.
absl::Status CheckFio();

// Does `work` to a file or block device by fio: io_uring, O_DIRECT, and for each connection a thread. The sample has its
// requests and bytes per second and latencies, without what went before by way of warming up.
absl::StatusOr<Sample> RunFio(const std::string& path, const Work& work, const Settings& settings);

}  // namespace buse::bench

#endif  // BENCH_FIO_H_
