// SPDX-License-Identifier: Apache-2.0
//
// Maintenance: a thread that rebuilds and scrubs a device with legs at set rates, and says how far it is: on standard error what
// changes, and in a file, as JSON, what is. layers/maintain.h makes a layer of it.

#ifndef LAYERS_MAINTENANCE_H_
#define LAYERS_MAINTENANCE_H_

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace buse {

class Maintenance {
 public:
  struct Status {
    std::string line;      // for people, where it changes
    std::string json;      // an object
    bool rebuilds = false;  // some leg is to be rebuilt
  };
  struct Options {
    uint64_t rebuild_rate = 0;  // bytes of each leg in a second; 0: none
    uint64_t scrub_rate = 0;
    std::string status_file;  // none if empty
  };
  // Each is called by the thread, one at a time: steps of about so many bytes of each leg.
  struct Device {
    std::function<absl::StatusOr<uint64_t>(uint64_t)> rebuild;
    std::function<absl::StatusOr<uint64_t>(uint64_t)> scrub;
    std::function<Status()> status;
  };

  Maintenance() = default;
  Maintenance(const Maintenance&) = delete;
  Maintenance& operator=(const Maintenance&) = delete;
  // Waits for the step under way.
  ~Maintenance();

  // Once. An error: the file for the status cannot be written.
  absl::Status Start(Device device, Options options);

 private:
  void Run();
  void Work(const Status& status);
  absl::Status Tell(const Status& status);

  Device device_;
  Options options_;
  std::string told_;
  std::string written_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool stop_ = false;  // guarded by mutex_
  std::thread thread_;
};

}  // namespace buse

#endif  // LAYERS_MAINTENANCE_H_
