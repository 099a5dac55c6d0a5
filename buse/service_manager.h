// SPDX-License-Identifier: Apache-2.0
//
// What a serving process says to whoever started it: systemd, or a shell that waits until it serves.

#ifndef BUSE_SERVICE_MANAGER_H_
#define BUSE_SERVICE_MANAGER_H_

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace buse {

// Sends `state`, such as "READY=1", to the service manager: one datagram to the socket that $NOTIFY_SOCKET names, as
// sd_notify(3) has it. Lines are separated by '\n'. Does nothing without a service manager. Never waits for it.
//   kInvalidArgument  the variable names no Unix socket
//   any other         the datagram could not be sent
absl::Status NotifyServiceManager(absl::string_view state);

// Goes on in a child process, which leads a session of its own. This one waits until the child calls TellThatItServes, and then
// ends with exit code 0; if the child ends before, with the child's. Returns in the child only. To be called before there are
// threads.
//   kUnavailable  no process can be had; then all is as before
absl::Status GoToBackground();

// Lets whoever waits for this process go on; after GoToBackground, standard input and output are /dev/null from now on. Does
// nothing in any other process, or the second time.
void TellThatItServes();

}  // namespace buse

#endif  // BUSE_SERVICE_MANAGER_H_
