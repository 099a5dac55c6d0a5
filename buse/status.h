// SPDX-License-Identifier: Apache-2.0
//
// The one table between absl::Status codes, errno values and the error numbers of NBD. Abseil's own errno mapping merges ENOSPC
// with ENOMEM and does not know EIO, so it is not used.
//
//   code                 errno        NBD error     means
//   kPermissionDenied    EPERM        1  EPERM      not allowed: the device was opened read-only
//   kInvalidArgument     EINVAL       22 EINVAL     a bad request: out of range, not aligned
//   kResourceExhausted   ENOSPC       28 ENOSPC     no space left
//   kUnavailable         ENOMEM       5  EIO        no memory, or no other resource, for the moment: a retry may help
//   kOutOfRange          EOVERFLOW    22 EINVAL     larger than can be handled in one request
//   kUnimplemented       EOPNOTSUPP   22 EINVAL     cannot be done that way
//   kCancelled           ESHUTDOWN    108 ESHUTDOWN the server is shutting down
//   kDataLoss            EIO          5  EIO        the bytes are wrong
//   kInternal            EIO          5  EIO        the medium failed; so does every other code
//
// Source of the NBD column: the NBD protocol specification, "Error values", which keeps ENOTSUP and EOVERFLOW for answers to
// flags that were negotiated, and would rather not see ENOMEM.

#ifndef BUSE_STATUS_H_
#define BUSE_STATUS_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace buse {

// "WHAT: the system's words for it" with the code of the table; EDQUOT and EFBIG count as no space, EACCES and EROFS as not
// allowed, what the table does not name as kInternal. `error` is not 0.
absl::Status StatusFromErrno(int error, absl::string_view what);

// The error field of an NBD reply for `code`; 0 for OK.
uint32_t NbdErrorFromStatus(absl::StatusCode code);

}  // namespace buse

#endif  // BUSE_STATUS_H_
