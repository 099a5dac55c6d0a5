// SPDX-License-Identifier: Apache-2.0
//
// An NBD client of the tests' own, written from the specification, that can also say what no well-behaved client says.

#ifndef TESTS_NBD_CLIENT_H_
#define TESTS_NBD_CLIENT_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "tests/reply_stream.h"

namespace buse::testing {

// A connection to a server on a Unix socket. Every wait is bounded; what did not come in time counts as the end.
class NbdClient {
 public:
  explicit NbdClient(const std::string& socket_path);
  NbdClient(const NbdClient&) = delete;
  NbdClient& operator=(const NbdClient&) = delete;
  ~NbdClient();

  bool connected() const { return fd_ >= 0; }

  void Send(const std::string& bytes);
  // Exactly `length` bytes, or what came before the end.
  std::string Receive(size_t length);
  // True if the server closed and nothing is left to receive.
  bool Closed();
  // Says that nothing more is sent.
  void CloseSending();

  // Negotiates with GO, behind other options. False: refused.
  bool Go(const std::string& name = "", const std::string& options_before = "");
  uint64_t size = 0;
  uint16_t flags = 0;
  std::map<std::string, uint32_t> contexts;  // that were selected, and their IDs

  // One request and its simple reply. Returns the error; for READ fills `data` if there was none.
  uint32_t Do(uint16_t flags, uint16_t type, uint64_t offset, uint32_t length, std::string* data = nullptr);
  // The same of a size. RESIZE, of the specification's extension of that name.
  uint32_t Resize(uint64_t new_size) { return Do(0, 8, new_size, 0); }

  // What answers one request in structured or extended replies: all up to the last chunk, or up to what is wrong.
  std::vector<ReplyMessage> Chunks(bool extended);

 private:
  int fd_ = -1;
  uint64_t cookie_ = 0;
};

}  // namespace buse::testing

#endif  // TESTS_NBD_CLIENT_H_
