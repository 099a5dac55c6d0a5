// SPDX-License-Identifier: Apache-2.0
//
// The line that Log writes, made in a buffer on the stack.

#include "layers/log.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdio>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "layers/operation.h"

namespace buse {
namespace {

// What POSIX promises to write to a pipe in one piece (_POSIX_PIPE_BUF).
constexpr size_t kLine = 512;

class Line {
 public:
  // Appends what fits before the last `reserve` bytes.
  void Append(absl::string_view text, size_t reserve) {
    const size_t n = std::min(text.size(), kLine - reserve - used_);
    // A message of several lines would look like several requests.
    std::replace_copy_if(
        text.begin(), text.begin() + n, bytes_.begin() + used_, [](unsigned char c) { return c < ' '; }, ' ');
    used_ += n;
  }

  void End() { bytes_[used_++] = '\n'; }

  absl::string_view text() const { return {bytes_.data(), used_}; }

 private:
  std::array<char, kLine> bytes_;
  size_t used_ = 0;
};

}  // namespace

void WriteLogLine(int fd, const Request& request, const absl::Status& status, std::chrono::nanoseconds elapsed) {
  // Two numbers of at most 20 digits.
  char range[64] = "";
  if (request.operation == Operation::kResize) {
    std::snprintf(range, sizeof(range), " %llu", static_cast<unsigned long long>(request.range.length));
  } else if (request.operation != Operation::kFlush) {
    std::snprintf(range, sizeof(range), " %llu+%llu", static_cast<unsigned long long>(request.range.offset),
                  static_cast<unsigned long long>(request.range.length));
  }
  char duration[32];
  std::snprintf(duration, sizeof(duration), " %lldus",
                static_cast<long long>(std::chrono::duration_cast<std::chrono::microseconds>(elapsed).count()));

  constexpr size_t kEnd = sizeof(duration) + 1;
  Line line;
  line.Append(ToString(request.operation), kEnd);
  line.Append(range, kEnd);
  if (status.ok()) {
    line.Append(" ok", kEnd);
  } else {
    line.Append(" ", kEnd);
    line.Append(absl::StatusCodeToString(status.code()), kEnd);
    line.Append(": ", kEnd);
    line.Append(status.message(), kEnd);
  }
  line.Append(duration, 1);
  line.End();
  while (write(fd, line.text().data(), line.text().size()) < 0 && errno == EINTR) {
  }
}

}  // namespace buse
