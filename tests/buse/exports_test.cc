// SPDX-License-Identifier: Apache-2.0
//
// Several exports of one program: its command line, and what clients find.

#include <unistd.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/buse/served.h"
#include "tests/nbd_client.h"
#include "tests/process.h"
#include "tests/wire.h"

namespace buse {
namespace {

using testing::Big;
using testing::ClientOption;
using testing::NbdClient;
using testing::Request;
using testing::Result;
using testing::Runfile;
using testing::RunToEnd;
using testing::ServedTest;
using testing::Shell;

constexpr uint16_t kRead = 0, kWrite = 1, kBlockStatus = 7;

const std::string kProgram = Runfile("tests/buse/exports_program");

bool Says(const std::string& output, const std::string& part) { return output.find(part) != std::string::npos; }

// A vault of a MiB and an image of 64 KiB full of 'i'.
class ExportsTest : public ServedTest {
 protected:
  void SetUp() override {
    const Result formatted = RunToEnd({kProgram, "format", "vault", path("vault"), "--create", "1M"});
    ASSERT_EQ(formatted.exit_code, 0) << formatted.output;
    ASSERT_EQ(formatted.output, path("vault") + ": formatted: a disk of 1016 KiB\n");
    Shell("head -c 65536 /dev/zero | tr '\\0' i > " + path("image"));
  }

  // The program and what it needs.
  std::vector<std::string> All(const std::vector<std::string>& more) const {
    std::vector<std::string> arguments = {kProgram, "4M", path("vault"), path("image")};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  }
  void ServeAll(const std::vector<std::string>& more = {}) {
    std::vector<std::string> arguments = All({uri()});
    arguments.insert(arguments.end(), more.begin(), more.end());
    Serve(arguments);
  }
};

TEST_F(ExportsTest, EachIsFoundByItsNameWithItsOwnSizesAndFlags) {
  ServeAll();
  EXPECT_TRUE(Says(server_->output(), "3 exports on " + uri())) << server_->output();
  struct Row {
    const char* name;
    uint64_t size;
    bool read_only, trims;
  };
  for (const Row& row : {Row{"scratch", 4 << 20, false, true}, Row{"", 4 << 20, false, true},
                         Row{"vault", 1040384, false, false}, Row{"image-2", 65536, true, false}}) {
    NbdClient client(path());
    ASSERT_TRUE(client.Go(row.name)) << row.name;
    EXPECT_EQ(client.size, row.size) << row.name;
    EXPECT_EQ((client.flags & 2) != 0, row.read_only) << row.name;
    EXPECT_EQ((client.flags & 32) != 0, row.trims) << row.name;
  }
  for (const char* name : {"Vault", "vault ", "image", "none"}) {
    NbdClient client(path());
    EXPECT_FALSE(client.Go(name)) << name;
  }
  EndServer();
}

TEST_F(ExportsTest, BytesOfOneAreNotThoseOfAnother) {
  ServeAll();
  std::vector<std::unique_ptr<NbdClient>> clients;
  for (const char* name : {"scratch", "vault", "image-2", ""}) {
    clients.push_back(std::make_unique<NbdClient>(path()));
    ASSERT_TRUE(clients.back()->Go(name));
  }
  std::string s(512, 's'), v(512, 'v'), back;
  EXPECT_EQ(clients[0]->Do(0, kWrite, 0, 512, &s), 0u);
  EXPECT_EQ(clients[1]->Do(0, kWrite, 0, 512, &v), 0u);
  EXPECT_EQ(clients[2]->Do(0, kWrite, 0, 512, &s), 1u) << "EPERM";
  EXPECT_EQ(clients[1]->Do(0, kRead, 0, 512, &back), 0u);
  EXPECT_EQ(back, v);
  EXPECT_EQ(clients[1]->Do(0, kRead, 1, 1, &back), 22u) << "it has blocks of 512 bytes";
  EXPECT_EQ(clients[2]->Do(0, kRead, 1, 1, &back), 0u);
  EXPECT_EQ(back, "i");
  EXPECT_EQ(clients[3]->Do(0, kRead, 0, 512, &back), 0u);
  EXPECT_EQ(back, s) << "the default is the first";
  EndServer();
  // All are flushed at the end.
  EXPECT_EQ(Shell("dd if=" + path("vault") + " bs=4096 skip=1 count=1 status=none | head -c 4").output, "vvvv");
}

TEST_F(ExportsTest, ContextsThatWereSetForOneAreNotThereForAnother) {
  ServeAll();
  const auto set = [](const std::string& name) {
    return ClientOption(8, "") + ClientOption(10, Big(4, name.size()) + name + Big(4, 1) + Big(4, 15) + "base:allocation");
  };
  const auto status = [&](const std::string& of, const std::string& set_for) {
    NbdClient client(path());
    EXPECT_TRUE(client.Go(of, set(set_for)));
    client.Send(Request(0, kBlockStatus, 7, 0, 65536));
    const std::vector<testing::ReplyMessage> chunks = client.Chunks(false);
    return chunks.size() == 1 ? chunks[0].error : ~0u;
  };
  EXPECT_EQ(status("scratch", "scratch"), 0u);
  EXPECT_EQ(status("", "scratch"), 0u) << "two names of one";
  EXPECT_EQ(status("scratch", ""), 0u);
  EXPECT_EQ(status("image-2", "scratch"), 22u) << "as if none had been set";
  EXPECT_EQ(status("image-2", "image-2"), 0u);
  EXPECT_EQ(status("vault", "vault"), 22u) << "it cannot tell what is allocated, so it has no context";
  EndServer();
}

TEST_F(ExportsTest, AllAreServedByTlsWhereItIsRequired) {
  const std::string keys = path("keys.psk");
  const Result made = Shell("psktool -u alice -p " + keys);
  ASSERT_EQ(made.exit_code, 0) << made.output << "(no psktool: run tools/setup)";
  ServeAll({"--tls-psk", keys});
  const auto secured = [&](const std::string& name) {
    return "nbds+unix://alice@/" + name + "?socket=" + path() + "&tls-psk-file=" + keys;
  };
  const Result list = RunToEnd({"nbdinfo", "--list", secured("")});
  EXPECT_EQ(list.exit_code, 0) << list.output;
  for (const char* part :
       {"protocol: newstyle-fixed with TLS", "export=\"scratch\"", "export=\"vault\"", "export=\"image-2\""}) {
    EXPECT_TRUE(Says(list.output, part)) << part << "\n" << list.output;
  }
  EXPECT_EQ(Shell("cd " + path("") + " && nbdcopy '" + secured("image-2") + "' out && cmp out image").exit_code, 0);
  EXPECT_NE(Shell("nbdinfo --list '" + uri() + "'").exit_code, 0) << "not in plain text";
  EndServer();
}

TEST_F(ExportsTest, RealClientsListThemAll) {
  ServeAll();
  const Result list = RunToEnd({"nbdinfo", "--list", uri()});
  EXPECT_EQ(list.exit_code, 0) << list.output;
  for (const char* part : {"export=\"scratch\"", "export=\"vault\"", "export=\"image-2\"", "export-size: 4194304 (4M)",
                           "export-size: 1040384", "export-size: 65536", "block_size_minimum: 512", "block_size_minimum: 1",
                           "description: 64 KiB served by exports_program"}) {
    EXPECT_TRUE(Says(list.output, part)) << part << "\n" << list.output;
  }
  EXPECT_EQ(Shell("nbdinfo --size '" + uri("vault") + "'").output, "1040384\n");
  EXPECT_TRUE(Says(Shell("nbdinfo '" + uri("image-2") + "'").output, "is_read_only: true"));
  EXPECT_TRUE(Says(Shell("nbd-client -l -unix " + path()).output, "vault"));
  EXPECT_TRUE(Says(Shell("qemu-img info -f raw '" + uri("image-2") + "'").output, "64 KiB"));
  EXPECT_EQ(Shell("cd " + path("") + " && nbdcopy '" + uri("image-2") + "' out && cmp out image").exit_code, 0);
  EXPECT_NE(Shell("nbdinfo '" + uri("none") + "'").exit_code, 0);
  EndServer();
}

TEST_F(ExportsTest, WhatFailsIsLoggedWithItsExport) {
  ServeAll();
  NbdClient client(path());
  ASSERT_TRUE(client.Go("image-2"));
  ASSERT_EQ(truncate(path("image").c_str(), 4096), 0);
  EXPECT_EQ(client.Do(0, kRead, 8192, 512), 5u);
  EndServer();
  EXPECT_TRUE(Says(server_->output(), "image-2: read 8192+512 failed")) << server_->output();
}

TEST_F(ExportsTest, VerboseLogsEveryStack) {
  ServeAll({"-v"});
  NbdClient client(path());
  ASSERT_TRUE(client.Go("vault"));
  EXPECT_EQ(client.Do(0, kRead, 512, 512), 0u);
  EndServer();
  EXPECT_TRUE(Says(server_->output(), "read 512+512 ok")) << server_->output();
}

TEST_F(ExportsTest, HelpDrawsEveryStackAndPutsTheNameBeforeEachOption) {
  const Result all = RunToEnd({kProgram, "--help"});
  EXPECT_EQ(all.exit_code, 0);
  for (const char* part :
       {"Usage: exports_program [OPTION]... SCRATCH-SIZE VAULT-FILE IMAGE-2-FILE [TARGET]",
        "  scratch       an export, and the one for a client that names none\n  └─ memory ", "\n  vault         an export\n",
        "  └─ formatted  ", "     └─ file    ", "--image-2-create SIZE", "--vault-read-only", "--only TEXT", "--max-clients",
        "Options of vault: file:", "exports_program format NAME disk.img", "exports_program --only image-2 --help"}) {
    EXPECT_TRUE(Says(all.output, part)) << part << "\n" << all.output;
  }
  EXPECT_FALSE(Says(all.output, "--vault-create")) << "that is for a format\n" << all.output;
  const Result one = RunToEnd({kProgram, "--only", "vault", "--help"});
  EXPECT_EQ(one.exit_code, 0);
  EXPECT_TRUE(Says(one.output, "[OPTION]... VAULT-FILE [TARGET]")) << one.output;
  EXPECT_FALSE(Says(one.output, "image-2-file")) << one.output;
  const Result format = RunToEnd({kProgram, "format", "vault", "--help"});
  EXPECT_EQ(format.exit_code, 0);
  EXPECT_TRUE(Says(format.output, "Usage: exports_program format vault [OPTION]... FILE\n")) << format.output;
  EXPECT_TRUE(Says(format.output, "--create")) << format.output;
}

TEST_F(ExportsTest, OneAloneIsServedUnderItsName) {
  Serve({kProgram, "--only=image-2", path("image"), uri()});
  EXPECT_TRUE(Says(server_->output(), "64 KiB on ")) << server_->output();
  EXPECT_TRUE(NbdClient(path()).Go("image-2"));
  EXPECT_TRUE(NbdClient(path()).Go(""));
  EXPECT_FALSE(NbdClient(path()).Go("vault"));
  EndServer();
}

TEST_F(ExportsTest, BadCommandLines) {
  struct Row {
    std::vector<std::string> arguments;
    int exit_code;
    std::string says;
  };
  const std::string vault = path("vault"), image = path("image");
  const Row rows[] = {
      {{kProgram, "4M", vault}, 2, "image-2-file: missing"},
      {All({"/dev/nbd0"}), 2, "/dev/nbd0 shows one export: choose it with --only NAME, one of scratch, vault, image-2"},
      {All({uri("vault")}), 2, "leave it out"},
      {All({"--resume"}), 2, "--resume: is about a kernel device"},
      {All({"--replace"}), 2, "--replace: is about a kernel device"},
      {All({"--only", "disk"}), 2, "\"disk\" is no export of this program: give one of scratch, vault, image-2"},
      {All({"--only"}), 2, "--only: needs a value"},
      {All({"--only", "vault"}), 2, "argument too many"},
      {All({"--size", "1"}), 2, "--size: unknown option"},
      {All({"--vault-create", "1M"}), 2, "only exports_program format takes it"},
      {{kProgram, "--only", "vault", vault, "--image-2-read-only"}, 2, "--image-2-read-only: unknown option"},
      {{kProgram, "4M", vault, path("none")}, 3, "image-2: "},
      {{kProgram, "4M", image, image}, 1, "vault: "},
      {{kProgram, "format"}, 2, "format: whose medium?"},
      {{kProgram, "format", "disk", vault}, 2, "\"disk\" is no export"},
      {{kProgram, "format", "scratch", "4M"}, 2, "the export scratch has no layer with a format of its own"},
      {{kProgram, "format", "vault", vault}, 1, "--force"},
      {{kProgram, "check", "vault", vault}, 0, "all sound"},
      {{kProgram, "describe", vault}, 0, "formatted"},
      {{kProgram, "resize", "/dev/null", "1M"}, 3, "/dev/null"},
  };
  for (const Row& row : rows) {
    const Result result = RunToEnd(row.arguments);
    std::string line;
    for (const std::string& argument : row.arguments) line += argument + " ";
    EXPECT_EQ(result.exit_code, row.exit_code) << line << "\n" << result.output;
    EXPECT_TRUE(Says(result.output, row.says)) << line << "\n" << result.output;
  }
}

}  // namespace
}  // namespace buse
