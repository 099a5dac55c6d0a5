// SPDX-License-Identifier: Apache-2.0
//
// Connections over devices whose calls may wait: what is slow holds up nothing else, what is under way is finished before the
// connection ends, however it ends, and no client can make the server keep more than its bounds.

#include "buse/deferral.h"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "buse/connection.h"
#include "buse/io.h"
#include "gtest/gtest.h"
#include "layers/delay.h"
#include "layers/passthrough.h"
#include "layers/serialize.h"
#include "tests/buse/byte_server.h"
#include "tests/buse/connected.h"
#include "tests/leaves.h"
#include "tests/wire.h"

namespace buse {
namespace {

using testing::Big;
using testing::ByteServer;
using testing::Full;
using testing::Request;
using testing::SimpleReply;

constexpr uint16_t kRead = 0, kWrite = 1, kDisc = 2, kFlush = 3, kTrim = 4, kCache = 5, kWriteZeroes = 6;
constexpr uint16_t kFua = 1;

// Full whose calls wait while their range begins at one of `held`; what begins below `quick` needs no waiting.
struct Gated {
  struct Config {
    uint64_t size = 65536;
    testing::Script* script = nullptr;
  };
  struct State {
    Full::State below;
    std::mutex mutex;
    std::condition_variable changed;
    std::vector<uint64_t> held;
    uint64_t quick = 0;
    int running = 0, most = 0;  // calls
    uint64_t calls = 0;
  };
  static constexpr uint64_t kBlockSize = 1;
  static constexpr Concurrency kConcurrency = Concurrency::kParallel;
  static constexpr bool kWaits = true;

  static absl::Status Open(const Config& config, State& self) {
    return Full::Open({.size = config.size, .script = config.script}, self.below);
  }
  static uint64_t Size(const State& self) { return Full::Size(self.below); }
  static absl::Status Read(State& self, uint64_t offset, Bytes out) {
    return Wait(self, offset, [&] { return Full::Read(self.below, offset, out); });
  }
  static absl::Status Write(State& self, uint64_t offset, ConstBytes in) {
    return Wait(self, offset, [&] { return Full::Write(self.below, offset, in); });
  }
  static absl::Status WriteThrough(State& self, uint64_t offset, ConstBytes in) {
    return Wait(self, offset, [&] { return Full::WriteThrough(self.below, offset, in); });
  }
  static absl::Status Flush(State& self) {
    return Wait(self, 0, [&] { return Full::Flush(self.below); });
  }
  static absl::Status Trim(State& self, Range range) {
    return Wait(self, range.offset, [&] { return Full::Trim(self.below, range); });
  }
  static absl::Status WriteZeroes(State& self, Range range) {
    return Wait(self, range.offset, [&] { return Full::WriteZeroes(self.below, range); });
  }
  static absl::Status Prefetch(State& self, Range range) {
    return Wait(self, range.offset, [&] { return Full::Prefetch(self.below, range); });
  }
  static absl::Status Extents(State& self, Range range, EmitExtent emit) { return Full::Extents(self.below, range, emit); }
  static bool TryRead(State& self, uint64_t offset, Bytes out) {
    return offset < Quick(self) && Full::TryRead(self.below, offset, out);
  }
  static bool TryWrite(State& self, uint64_t offset, ConstBytes in) {
    return offset < Quick(self) && Full::TryWrite(self.below, offset, in);
  }

  static void Hold(State& self, std::vector<uint64_t> offsets) {
    const std::lock_guard lock(self.mutex);
    self.held = std::move(offsets);
    self.changed.notify_all();
  }
  static void SetQuick(State& self, uint64_t quick) {
    const std::lock_guard lock(self.mutex);
    self.quick = quick;
  }
  // Waits until so many calls are running.
  static void AwaitRunning(State& self, int count) {
    std::unique_lock lock(self.mutex);
    self.changed.wait(lock, [&] { return self.running == count; });
  }

 private:
  static uint64_t Quick(State& self) {
    const std::lock_guard lock(self.mutex);
    return self.quick;
  }
  template <class Call>
  static absl::Status Wait(State& self, uint64_t offset, Call call) {
    {
      std::unique_lock lock(self.mutex);
      self.most = std::max(self.most, ++self.running);
      ++self.calls;
      self.changed.notify_all();
      self.changed.wait(lock, [&] { return std::count(self.held.begin(), self.held.end(), offset) == 0; });
    }
    absl::Status status = call();
    const std::lock_guard lock(self.mutex);
    --self.running;
    self.changed.notify_all();
    return status;
  }
};

static_assert(Exported<Gated>::kDefers);
static_assert(Exported<Delay<Full>>::kDefers);
static_assert(Exported<Passthrough<Gated>>::kDefers);
static_assert(!Exported<Full>::kDefers, "what never waits is served in place");
static_assert(!Exported<Serialize<Full>>::kDefers);
static_assert(!Exported<Delay<testing::BasicFull<1, Concurrency::kSerial>>>::kDefers, "one call at a time");
static_assert(!Exported<Delay<testing::BasicFull<1, Concurrency::kDisjoint>>>::kDefers);

// Ends the connection after the next request, once it is told to.
class Stopper : public Supervisor {
 public:
  bool MayWait() override { return !stopped_; }
  void Arrived() override { stopped_ = stop.load(); }
  std::atomic<bool> stop = false;

 private:
  bool stopped_ = false;  // used by the connection's thread
};

struct Scripted {
  testing::Script script;
};

class Served : public Scripted, public testing::Connected<Gated> {
 public:
  explicit Served(size_t workers = 4, Supervisor* supervisor = nullptr, uint64_t size = 1 << 20)
      : Connected({.size = size, .script = &script}, workers, supervisor) {}
  ~Served() { Gated::Hold(device, {}); }
};

TEST(DeferralTest, ASlowReadHoldsUpNothingElse) {
  Served served;
  Gated::Hold(served.device, {512});
  served.Send(Request(0, kRead, 1, 512, 4));
  Gated::AwaitRunning(served.device, 1);
  const std::pair<std::string, std::string> others[] = {
      {Request(0, kRead, 2, 0, 4), SimpleReply(0, 2, std::string(4, '\0'))},
      {Request(0, kWrite, 3, 100, 4) + "data", SimpleReply(0, 3)},
      {Request(kFua, kWrite, 4, 200, 4) + "data", SimpleReply(0, 4)},
      {Request(0, kRead, 5, 100, 4), SimpleReply(0, 5, "data")},
      {Request(0, kFlush, 6, 0, 0), SimpleReply(0, 6)},
      {Request(0, kTrim, 7, 100, 2), SimpleReply(0, 7)},
      {Request(2, kWriteZeroes, 8, 103, 1), SimpleReply(0, 8)},
      {Request(0, kCache, 9, 0, 4), SimpleReply(0, 9)},
      {Request(0, kRead, 10, 100, 4), SimpleReply(0, 10, std::string("\0\0t\0", 4))},
      {Request(0, kRead, 11, 1 << 20, 4), SimpleReply(22, 11)}};
  for (const auto& [request, reply] : others) {
    served.Send(request);
    EXPECT_EQ(served.Receive(reply.size()), reply);
  }
  EXPECT_FALSE(served.Readable());
  Gated::Hold(served.device, {});
  EXPECT_EQ(served.Receive(20), SimpleReply(0, 1, std::string(4, '\0')));
}

TEST(DeferralTest, WhatNeedNotWaitIsAnsweredInPlaceWhileEveryWorkerIsBusy) {
  Served served(2);
  Gated::SetQuick(served.device, 4096);
  Gated::Hold(served.device, {5000});
  for (uint64_t i = 0; i < 2; ++i) served.Send(Request(0, kRead, i, 5000, 4));
  Gated::AwaitRunning(served.device, 2);
  std::string in, out;
  for (uint64_t i = 10; i < 50; ++i) {
    in += Request(0, kWrite, i, i * 4, 4) + "data" + Request(0, kRead, i + 100, i * 4, 4);
    out += SimpleReply(0, i) + SimpleReply(0, i + 100, "data");
  }
  served.Send(in);
  EXPECT_EQ(served.Receive(out.size()), out) << "in order, since in place";
  EXPECT_FALSE(served.Readable());
  served.Send(Request(kFua, kWrite, 7, 0, 4) + "data");
  EXPECT_FALSE(served.Readable(20)) << "a FUA write is for a worker";
}

TEST(DeferralTest, TheEndWaitsForWhatIsUnderWay) {
  for (const bool disconnect : {false, true}) {
    Served served;
    Gated::Hold(served.device, {512, 0});
    served.Send(Request(0, kRead, 1, 512, 4) + Request(0, kWrite, 2, 512, 2) + "ab" + Request(0, kFlush, 3, 0, 0));
    if (disconnect) served.Send(Request(0, kDisc, 4, 0, 0));
    if (!disconnect) shutdown(served.client.get(), SHUT_WR);
    Gated::AwaitRunning(served.device, 3);
    EXPECT_FALSE(served.Readable(20));
    EXPECT_FALSE(served.ended());
    Gated::Hold(served.device, {});
    EXPECT_EQ(served.ReceiveAll().size(), 20u + 16u + 16u);
    EXPECT_TRUE(served.Join().ok());
    EXPECT_EQ(served.script.medium[512], std::byte{'a'});
  }
}

TEST(DeferralTest, StoppedBetweenTwoRequestsAllBeforeAreAnswered) {
  Stopper stopper;
  Served served(4, &stopper);
  Gated::Hold(served.device, {512});
  served.Send(Request(0, kRead, 1, 512, 4));
  Gated::AwaitRunning(served.device, 1);
  stopper.stop = true;
  served.Send(Request(0, kRead, 2, 0, 4));  // wakes it, and is answered
  EXPECT_EQ(served.Receive(20), SimpleReply(0, 2, std::string(4, '\0')));
  EXPECT_FALSE(served.Readable(20));
  EXPECT_FALSE(served.ended()) << "the first is not answered yet";
  Gated::Hold(served.device, {});
  EXPECT_EQ(served.ReceiveAll(), SimpleReply(0, 1, std::string(4, '\0')));
  EXPECT_EQ(served.Join().code(), absl::StatusCode::kCancelled);
}

TEST(DeferralTest, AClientThatGoesAwayLeavesNothingRunning) {
  Served served;
  Gated::Hold(served.device, {512});
  for (uint64_t i = 0; i < 4; ++i) served.Send(Request(0, kRead, i, 512, 4));
  Gated::AwaitRunning(served.device, 4);
  served.client.reset();
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_FALSE(served.ended()) << "the device is in use";
  Gated::Hold(served.device, {});
  served.Join().IgnoreError();
  EXPECT_EQ(served.device.running, 0);
}

TEST(DeferralTest, ABrokenProtocolAnswersWhatCameBefore) {
  Served served;
  Gated::Hold(served.device, {512});
  served.Send(Request(0, kRead, 1, 512, 4) + std::string(28, 'x'));
  Gated::AwaitRunning(served.device, 1);
  EXPECT_FALSE(served.Readable(20));
  Gated::Hold(served.device, {});
  EXPECT_EQ(served.ReceiveAll(), SimpleReply(0, 1, std::string(4, '\0')));
  EXPECT_EQ(served.Join().code(), absl::StatusCode::kInvalidArgument);
}

// Thousands of slow requests, of which the client takes no answer for a while.
TEST(DeferralTest, AFloodWaitsInTheSocketAndIsAnswered) {
  constexpr size_t kFlood = 5000, kLength = 4096;
  Served served(3);
  Gated::Hold(served.device, {0});
  std::thread flood([&] {
    std::string in;
    for (uint64_t i = 0; i < kFlood; ++i) in += Request(0, kRead, i, 0, kLength);
    served.Send(in);
  });
  Gated::AwaitRunning(served.device, 3);
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  Gated::Hold(served.device, {});
  // The answers fill the socket, then the tasks; nothing more is taken.
  uint64_t before = 0;
  for (;;) {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    const std::lock_guard lock(served.device.mutex);
    if (served.device.calls == before) break;
    before = served.device.calls;
  }
  EXPECT_LT(before, kFlood);
  std::map<std::string, int> seen;
  for (size_t i = 0; i < kFlood; ++i) {
    const std::string reply = served.Receive(16 + kLength);
    ASSERT_EQ(reply.size(), 16 + kLength);
    ++seen[reply.substr(8, 8)];
  }
  flood.join();
  EXPECT_EQ(seen.size(), kFlood) << "each once";
  EXPECT_EQ(served.device.most, 3);
}

TEST(DeferralTest, ManyLargeRequestsShareTheBoundedMemory) {
  constexpr size_t kLarge = 8 << 20;
  Served served(8, nullptr, 16 << 20);
  std::string in;
  for (uint64_t i = 0; i < 20; ++i) in += Request(0, kRead, i, 1, kLarge);
  const std::string data(kLarge, 'x');
  std::thread client([&] { served.Send(Request(0, kWrite, 77, 1, kLarge) + data + in); });
  // No order is promised between the write and the reads.
  size_t total = 16 + 20 * (16 + kLarge), got = 0;
  while (got < total) {
    const size_t n = served.Receive(std::min<size_t>(total - got, 1 << 20)).size();
    ASSERT_GT(n, 0u);
    got += n;
  }
  client.join();
  EXPECT_EQ(served.script.medium[kLarge], std::byte{'x'});
  EXPECT_LE(served.device.most, 4) << "four of them fill the memory";
}

TEST(DeferralTest, AWriteIsWholeOrNotDone) {
  Served served;
  std::string data(100000, '\0');
  for (size_t i = 0; i < data.size(); ++i) data[i] = static_cast<char>(i * 7 + i / 1000);
  served.Send(Request(0, kWrite, 1, 5, data.size()) + data.substr(0, 70000));
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  served.Send(data.substr(70000));
  EXPECT_EQ(served.Receive(16), SimpleReply(0, 1));
  served.Send(Request(0, kRead, 2, 5, data.size()));
  EXPECT_EQ(served.Receive(16 + data.size()), SimpleReply(0, 2, data));
  served.Send(Request(0, kWrite, 3, 5, data.size()) + std::string(90000, 'x'));
  served.client.reset();
  EXPECT_TRUE(served.Join().ok());
  EXPECT_EQ(served.script.medium[5], std::byte{static_cast<unsigned char>(data[0])});
}

TEST(DeferralTest, FailuresAreAnsweredAndToldAsInPlace) {
  Served served;
  served.script.fail_at = 0;
  served.Send(Request(0, kRead, 1, 0, 4096));
  EXPECT_EQ(served.Receive(16), SimpleReply(5, 1)) << "and no payload";
  served.Send(Request(0, kRead, 2, 0, 1));
  EXPECT_EQ(served.Receive(17), SimpleReply(0, 2, std::string(1, '\0')));
  EXPECT_EQ(served.failures(), std::vector<std::string>{"read"});
}

TEST(DeferralTest, WithoutWorkersEverythingIsDoneInOrder) {
  Served served(0);
  std::string in, out;
  for (uint64_t i = 0; i < 100; ++i) {
    in += Request(0, kWrite, i, i, 1) + "x" + Request(0, kRead, i, i, 1);
    out += SimpleReply(0, i) + SimpleReply(0, i, "x");
  }
  served.Send(in);
  EXPECT_EQ(served.Receive(out.size()), out);
}

// As of a transport that only one thread may use.
struct HalfDuplex : testing::ByteTransport {
  using ByteTransport::ByteTransport;
  static constexpr bool kFullDuplex = false;
};

TEST(DeferralTest, WhereNobodyMaySendMeanwhileEverythingIsDoneInOrder) {
  Served served;
  testing::Bytestream stream;
  std::string out;
  for (uint64_t i = 0; i < 100; ++i) {
    stream.in += Request(0, kWrite, i, i, 1) + "x" + Request(0, kRead, i, i, 1);
    out += SimpleReply(0, i) + SimpleReply(0, i, "x");
  }
  Connection<Gated, HalfDuplex> connection(*served.exported, HalfDuplex(stream), *Buffers::Create());
  EXPECT_TRUE(connection.Transmit().ok());
  EXPECT_EQ(stream.out, out);
  EXPECT_EQ(served.device.most, 1);
}

// Structured and extended replies by workers are those that the connection makes itself.
TEST(DeferralTest, AllStylesOfRepliesAreTheSame) {
  const std::string flags = Big(4, 3), go = testing::ClientOption(7, Big(4, 0) + Big(2, 0));
  for (const bool extended : {false, true}) {
    const std::string options = flags + testing::ClientOption(extended ? 11 : 8, "") + go;
    const auto ask = [&](uint16_t flag, uint16_t type, uint64_t offset, uint64_t length) {
      return extended ? testing::ExtendedRequest(flag | (type == kWrite ? 32 : 0), type, 1, offset, length)
                      : Request(flag, type, 1, offset, static_cast<uint32_t>(length));
    };
    const std::string requests[] = {ask(0, kRead, 5, 100),        ask(0, kRead, 0, 400000),        ask(4, kRead, 0, 400000),
                                    ask(0, kWrite, 5, 3) + "abc", ask(kFua, kWrite, 5, 3) + "abc", ask(0, kFlush, 0, 0),
                                    ask(0, kTrim, 5, 100),        ask(2, kWriteZeroes, 5, 100),    ask(0, kCache, 5, 100),
                                    ask(0, kRead, 1 << 20, 1)};
    for (const std::string& request : requests) {
      for (const int fail_at : {-1, 0, 1}) {
        ByteServer<Full> in_place(1 << 20);
        ByteServer<Gated> by_workers(1 << 20);
        for (testing::Script* script : {&in_place.script, &by_workers.script}) {
          std::fill_n(script->medium.begin() + 200000, 100000, std::byte{7});
          script->fail_at = fail_at;
        }
        EXPECT_EQ(by_workers.Talk(options, request), in_place.Talk(options, request)) << fail_at;
        EXPECT_EQ(by_workers.failures, in_place.failures);
      }
    }
  }
}

}  // namespace
}  // namespace buse
