// SPDX-License-Identifier: Apache-2.0
//
// The shell sessions that a page shows: what is typed behind "$ ", and what is printed.

#ifndef TESTS_CONSOLE_H_
#define TESTS_CONSOLE_H_

#include <string>
#include <utility>
#include <vector>

namespace buse::testing {

// Commands, and what each prints.
using Session = std::vector<std::pair<std::string, std::string>>;

// All sessions of the page (a runfile) below a line "<!-- MARK -->", one after the other.
Session SessionOf(const std::string& page, const std::string& mark);

// Types it in one shell, in `folder`, with `programs` first in its PATH; where it says "sleep 1", waits until there is the
// socket disk.sock. Fails the test where something else is printed than the page says.
void ExpectSession(const Session& session, const std::string& folder, const std::string& programs);

}  // namespace buse::testing

#endif  // TESTS_CONSOLE_H_
