// SPDX-License-Identifier: Apache-2.0
//
// Sizes in bytes as people write and read them. Units are powers of 1024.

#ifndef BUSE_SIZE_H_
#define BUSE_SIZE_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace buse {

// "4096", "4K", "128M", "1.5G": a decimal number, a fraction if the result is a whole number of bytes, and one of K, M, G, T, P
// and E in either case, which "B" or "iB" may follow. A space may precede the unit, so that what FormatSize says is accepted.
// kInvalidArgument with a sentence that quotes `text` otherwise.
absl::StatusOr<uint64_t> ParseSize(absl::string_view text);

// Exact and short: the largest unit that divides `bytes`. "128 MiB", "1000 bytes", "1 byte".
std::string FormatSize(uint64_t bytes);

// Short, and rounded down to three digits where it is not exact: "9.92 GiB", "128 MiB", "1000 bytes".
std::string FormatSizeRoughly(uint64_t bytes);

}  // namespace buse

#endif  // BUSE_SIZE_H_
