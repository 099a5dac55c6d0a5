// SPDX-License-Identifier: Apache-2.0
//
// Maintenance: a thread that rebuilds and scrubs a device with legs at set rates, and says how far it is: on standard error what
// changes, and in a file, as JSON, every second what is. layers/maintain.h makes a layer of it.

#ifndef LAYERS_MAINTENANCE_H_
#define LAYERS_MAINTENANCE_H_

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "layers/legs_status.h"
#include "layers/maintenance_status.h"

namespace buse {

class Maintenance {
 public:
  struct Options {
    uint64_t rebuild_rate = 0;  // bytes of each leg in a second; 0: none
    uint64_t scrub_rate = 0;
    std::string status_file;  // none if empty
    std::string layer;        // what the status says of these
    std::vector<std::string> media;
  };
  // Each is called by the thread, one at a time: steps of about so many bytes of each leg.
  struct Device {
    std::function<absl::StatusOr<uint64_t>(uint64_t)> rebuild;
    std::function<absl::StatusOr<uint64_t>(uint64_t)> scrub;
    std::function<LegsStatus()> status;
  };

  Maintenance() = default;
  Maintenance(const Maintenance&) = delete;
  Maintenance& operator=(const Maintenance&) = delete;
  // Waits for the step under way.
  ~Maintenance();

  // Once. An error: the file for the status cannot be written.
  absl::Status Start(Device device, Options options);

 private:
  using Clock = std::chrono::steady_clock;

  // How fast something goes that has so many bytes left.
  class Pace {
   public:
    void Note(uint64_t left, Clock::time_point now);
    absl::optional<uint64_t> seconds() const;

   private:
    uint64_t left_ = 0;
    Clock::time_point at_;
    double bytes_per_second_ = 0;
  };

  void Run();
  void Work(const LegsStatus& status);
  MaintenanceStatus About(const LegsStatus& legs, bool serving) const;
  absl::Status Tell(const LegsStatus& legs, bool serving);

  Device device_;
  Options options_;
  std::string told_;
  Pace rebuilding_;
  Pace scrubbing_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool stop_ = false;  // guarded by mutex_
  std::thread thread_;
};

}  // namespace buse

#endif  // LAYERS_MAINTENANCE_H_
