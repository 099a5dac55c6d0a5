// SPDX-License-Identifier: Apache-2.0

#include "buse/status.h"

#include <cassert>
#include <cerrno>
#include <system_error>

#include "absl/strings/str_cat.h"

namespace buse {
namespace {

absl::StatusCode CodeFromErrno(int error) {
  switch (error) {
    case EPERM:
    case EACCES:
    case EROFS:
      return absl::StatusCode::kPermissionDenied;
    case EINVAL:
      return absl::StatusCode::kInvalidArgument;
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
      return absl::StatusCode::kResourceExhausted;
    case ENOMEM:
      return absl::StatusCode::kUnavailable;
    case EOVERFLOW:
      return absl::StatusCode::kOutOfRange;
    case EOPNOTSUPP:
      return absl::StatusCode::kUnimplemented;
    case ESHUTDOWN:
      return absl::StatusCode::kCancelled;
    default:
      return absl::StatusCode::kInternal;
  }
}

}  // namespace

absl::Status StatusFromErrno(int error, absl::string_view what) {
  assert(error != 0 && "a failure without an errno");
  return absl::Status(CodeFromErrno(error), absl::StrCat(what, ": ", std::generic_category().message(error)));
}

uint32_t NbdErrorFromStatus(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kOk:
      return 0;
    case absl::StatusCode::kPermissionDenied:
      return 1;
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kOutOfRange:
    case absl::StatusCode::kUnimplemented:
      return 22;
    case absl::StatusCode::kResourceExhausted:
      return 28;
    case absl::StatusCode::kCancelled:
      return 108;
    default:
      return 5;
  }
}

}  // namespace buse
