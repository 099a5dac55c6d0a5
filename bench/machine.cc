// SPDX-License-Identifier: Apache-2.0

#include "bench/machine.h"

#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <sstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"

namespace buse::bench {
namespace {

std::string FirstLine(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

// The value of the first line "NAME<blanks>: VALUE".
std::string Field(const std::string& path, absl::string_view name) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    const size_t colon = line.find(':');
    if (colon == std::string::npos) continue;
    const absl::string_view text = line;
    if (absl::StripAsciiWhitespace(text.substr(0, colon)) == name) {
      return std::string(absl::StripAsciiWhitespace(text.substr(colon + 1)));
    }
  }
  return "";
}

// The choice in square brackets of a file in /sys.
std::string Chosen(const std::string& path) {
  const std::string line = FirstLine(path);
  const size_t begin = line.find('[');
  const size_t end = line.find(']');
  return begin == std::string::npos || end == std::string::npos ? line : line.substr(begin + 1, end - begin - 1);
}

// "ext4 on /dev/vda": the longest mount point that leads to `folder`.
std::string FileSystem(const std::string& folder) {
  std::ifstream mounts("/proc/self/mounts");
  std::string best;
  size_t longest = 0;
  for (std::string line; std::getline(mounts, line);) {
    std::istringstream words(line);
    std::string device, point, type;
    words >> device >> point >> type;
    if (point.size() >= longest && (point == "/" || folder == point || absl::StartsWith(folder, point + "/"))) {
      longest = point.size();
      best = absl::StrCat(type, " on ", device);
    }
  }
  return best;
}

}  // namespace

std::vector<std::pair<std::string, std::string>> DescribeMachine(const std::string& folder) {
  utsname system;
  uname(&system);
  const bool guest = absl::StrContains(absl::StrCat(" ", Field("/proc/cpuinfo", "flags"), " "), " hypervisor ");
  std::vector<std::pair<std::string, std::string>> about = {
      {"cpu", Field("/proc/cpuinfo", "model name")},
      {"cpus", absl::StrCat(sysconf(_SC_NPROCESSORS_ONLN))},
      {"virtual machine", guest ? "yes" : "no"},
      {"architecture", system.machine},
      {"kernel", absl::StrCat(system.sysname, " ", system.release)},
      {"memory", absl::StrFormat("%.1f GiB", static_cast<double>(sysconf(_SC_PHYS_PAGES)) *
                                                 static_cast<double>(sysconf(_SC_PAGE_SIZE)) / (1 << 30))},
      {"transparent huge pages", Chosen("/sys/kernel/mm/transparent_hugepage/enabled")},
      {"files", FileSystem(folder)},
      {"compiler", __VERSION__},
      {"optimized", Optimized() ? "yes" : "no"}};
  const std::string governor = FirstLine("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor");
  if (!governor.empty()) about.push_back({"cpu frequency governor", governor});
  return about;
}

std::string LoadAverage() {
  const std::string line = FirstLine("/proc/loadavg");
  return line.substr(0, line.find(' '));
}

StolenTime ReadStolenTime() {
  std::istringstream words(FirstLine("/proc/stat"));
  std::string label;
  words >> label;
  StolenTime time;
  int column = 0;
  // user nice system idle iowait irq softirq steal; what follows is counted in user and nice already.
  for (double ticks; column < 8 && words >> ticks; ++column) {
    time.total += ticks;
    if (column == 7) time.stolen = ticks;
  }
  return time;
}

}  // namespace buse::bench
