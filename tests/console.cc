// SPDX-License-Identifier: Apache-2.0

#include "tests/console.h"

#include <fstream>

#include "gtest/gtest.h"
#include "tests/process.h"

namespace buse::testing {

Session SessionOf(const std::string& page, const std::string& mark) {
  std::ifstream lines(Runfile(page));
  Session session;
  bool ours = false, inside = false;
  for (std::string line; std::getline(lines, line);) {
    if (line.rfind("```", 0) == 0) {
      inside = ours && line == "```console";
      ours = false;
    } else if (line.rfind("<!-- ", 0) == 0) {
      ours = line == "<!-- " + mark + " -->";
    } else if (inside && line.rfind("$ ", 0) == 0) {
      session.push_back({line.substr(2), ""});
    } else if (inside && !session.empty()) {
      session.back().second += line + "\n";
    }
  }
  return session;
}

void ExpectSession(const Session& session, const std::string& folder, const std::string& programs) {
  // After each command a mark, which leaves its exit status in place.
  std::string script = "cd " + folder + "; PATH=" + programs + ":$PATH";
  std::string expected;
  for (auto [command, output] : session) {
    // As long as it takes, and not a moment that may be too short.
    const size_t sleep = command.find("sleep 1");
    if (sleep != std::string::npos) command.replace(sleep, 7, "while [ ! -S disk.sock ]; do sleep 0.1; done");
    script += "\n" + command + "\nstatus=$?; echo '--- end of: '" + std::to_string(expected.size()) + "; (exit $status)";
    expected += output + "--- end of: " + std::to_string(expected.size()) + "\n";
  }
  EXPECT_EQ(RunToEnd({"bash", "-c", script}).output, expected);
}

}  // namespace buse::testing
