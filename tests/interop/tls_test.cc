// SPDX-License-Identifier: Apache-2.0
//
// TLS with the clients that people use: by certificates and by keys, what is refused and what the log says of it.

#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "tests/console.h"
#include "tests/nbd_client.h"
#include "tests/process.h"
#include "tests/wire.h"

namespace buse {
namespace {

using testing::Big;
using testing::ClientOption;
using testing::NbdClient;
using testing::OptionReply;
using testing::Process;
using testing::Result;
using testing::Runfile;
using testing::RunToEnd;
using testing::Shell;

const std::string kMemdisk = Runfile("examples/memdisk");

// Between clients and a server, on a socket of its own: passes on what both say, one connection at a time, and breaks it off when
// the client has said `limit` bytes.
class BreakingProxy {
 public:
  BreakingProxy(std::string path, std::string server) : path_(std::move(path)), server_(std::move(server)) {
    const sockaddr_un address = Address(path_);
    listener_ = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    EXPECT_EQ(bind(listener_, reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
    EXPECT_EQ(listen(listener_, 16), 0);
    thread_ = std::thread([this] {
      for (int client; (client = accept(listener_, nullptr, nullptr)) >= 0;) Pass(client);
    });
  }
  ~BreakingProxy() {
    shutdown(listener_, SHUT_RDWR);
    thread_.join();
    close(listener_);
  }

  std::atomic<uint64_t> limit = UINT64_MAX;
  std::atomic<uint64_t> said = 0;  // by the client of the last connection

 private:
  static sockaddr_un Address(const std::string& path) {
    sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = {}};
    path.copy(address.sun_path, sizeof address.sun_path - 1);
    return address;
  }

  void Pass(int client) {
    const sockaddr_un address = Address(server_);
    const int server = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    EXPECT_EQ(connect(server, reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
    char bytes[4096];
    for (said = 0; said < limit;) {
      pollfd fds[] = {{client, POLLIN, 0}, {server, POLLIN, 0}};
      poll(fds, 2, -1);
      const bool from_client = fds[0].revents != 0;
      const size_t most = from_client ? std::min<uint64_t>(sizeof bytes, limit - said) : sizeof bytes;
      const ssize_t n = read(from_client ? client : server, bytes, most);
      if (n <= 0 || send(from_client ? server : client, bytes, n, MSG_NOSIGNAL) != n) break;
      if (from_client) said += n;
    }
    close(server);
    close(client);
  }

  std::string path_, server_;
  int listener_ = -1;
  std::thread thread_;
};

class TlsTest : public ::testing::Test {
 protected:
  TlsTest() {
    char name[] = "/tmp/buse-tls.XXXXXX";
    folder_ = mkdtemp(name);
    socket_ = folder_ + "/s";
    const Result made = Shell("cd " + folder_ + " && bash -e " + Runfile("tests/interop/pki.sh"));
    EXPECT_EQ(made.exit_code, 0) << made.output << "\n(no certtool or psktool: run tools/setup)";
  }
  ~TlsTest() override {
    server_.reset();
    RunToEnd({"rm", "-rf", folder_});
  }

  // A memory disk on the socket, or where `target` says.
  void Serve(std::vector<std::string> options, const std::string& target = "") {
    server_.reset();
    options.insert(options.begin(), {kMemdisk, "64M", target.empty() ? "nbd+unix:///disk?socket=" + socket_ : target});
    server_ = std::make_unique<Process>(options);
    ASSERT_TRUE(server_->WaitFor("Ctrl-C")) << server_->output();
  }
  void ServeByCertificates(std::vector<std::string> more = {}) {
    more.push_back("--tls-certificates=" + folder_ + "/good");
    Serve(more);
  }
  void ServeByKeys() { Serve({"--tls-psk=" + folder_ + "/psk/keys.psk"}); }
  void EndServer() {
    ASSERT_NE(server_, nullptr);
    server_->Signal(SIGTERM);
    EXPECT_EQ(server_->Wait(), 0) << server_->output();
  }

  // What a client is given: the certificates of a folder, or the key of a user.
  std::string ByCertificates(const std::string& dir) {
    return "nbds+unix:///disk?socket=" + socket_ + "&tls-certificates=" + folder_ + "/" + dir;
  }
  std::string ByKey(const std::string& user, const std::string& dir = "psk") {
    return "nbds+unix://" + user + "@/disk?socket=" + socket_ + "&tls-psk-file=" + folder_ + "/" + dir + "/keys.psk";
  }
  std::string QemuByCertificates(const std::string& dir) {
    return "--object tls-creds-x509,id=tls0,endpoint=client,dir=" + folder_ + "/" + dir + " --image-opts " + QemuDisk();
  }
  std::string QemuByKey(const std::string& user) {
    return "--object tls-creds-psk,id=tls0,endpoint=client,username=" + user + ",dir=" + folder_ + "/psk --image-opts " +
           QemuDisk();
  }
  std::string QemuDisk() const {
    return "driver=nbd,server.type=unix,server.path=" + socket_ + ",export=disk,tls-creds=tls0,tls-hostname=localhost";
  }

  // Runs a line of shell in the folder. It must succeed.
  std::string Do(const std::string& line) {
    const Result result = Shell("set -e; cd " + folder_ + "; " + line);
    EXPECT_EQ(result.exit_code, 0) << line << "\n" << result.output;
    return result.output;
  }
  // It must fail.
  std::string DoInVain(const std::string& line) {
    const Result result = Shell("cd " + folder_ + "; " + line);
    EXPECT_NE(result.exit_code, 0) << line << "\n" << result.output;
    return result.output;
  }
  static void ExpectSays(const std::string& output, const std::string& part) {
    EXPECT_NE(output.find(part), std::string::npos) << part << "\nis not in\n" << output;
  }
  void ExpectServes(const std::string& uri) { EXPECT_EQ(Do("nbdinfo --size '" + uri + "'"), "67108864\n"); }

  // `nbdinfo` of `uri` fails, for a reason that the log gives, and the next client is served.
  void ExpectRefused(const std::string& uri, const std::string& why, const std::string& good) {
    DoInVain("nbdinfo '" + uri + "'");
    EXPECT_TRUE(server_->WaitFor(why)) << uri << "\n" << why << "\nis not in\n" << server_->output();
    ExpectServes(good);
  }

  // In and out through four connections, and what is there compares equal.
  void ExpectCopies(const std::string& uri) {
    Do("test -e in || head -c 64M /dev/urandom > in; nbdcopy --connections=4 --flush in '" + uri + "'; nbdcopy '" + uri +
       "' out; cmp in out; rm out");
  }

  std::string folder_, socket_;
  std::unique_ptr<Process> server_;
};

TEST_F(TlsTest, LibnbdByCertificates) {
  ServeByCertificates();
  const std::string uri = ByCertificates("good");
  ExpectSays(server_->output(), "64 MiB on nbds+unix:///disk?socket=" + socket_ + "\n");
  ExpectSays(server_->output(), "nbdinfo '" + uri + "'");
  const std::string info = Do("nbdinfo '" + uri + "'");
  for (const char* part : {"newstyle-fixed with TLS", "using structured packets", "export=\"disk\"", "export-size: 67108864",
                           "can_multi_conn: true", "64 MiB served by memdisk", "base:allocation"}) {
    ExpectSays(info, part);
  }
  ExpectSays(Do("nbdinfo --list '" + uri + "'"), "export=\"disk\"");
  ExpectSays(Do("nbdinfo --map '" + uri + "'"), "67108864    3  hole,zero");
  ExpectCopies(uri);
  ExpectSays(Do("nbdinfo --map --totals '" + uri + "'"), "67108864 100.0%   0 data");
  EndServer();
}

TEST_F(TlsTest, LibnbdByKeys) {
  ServeByKeys();
  ExpectSays(server_->output(), "nbdinfo '" + ByKey("alice") + "'");
  ExpectSays(Do("nbdinfo '" + ByKey("alice") + "'"), "newstyle-fixed with TLS");
  ExpectServes(ByKey("bob"));
  ExpectCopies(ByKey("alice"));
  // The file is read for each client: a new user needs no new server.
  Do("psktool -u carol -p psk/keys.psk");
  ExpectServes(ByKey("carol"));
  EndServer();
}

TEST_F(TlsTest, QemuByCertificatesAndByKeys) {
  const auto works = [&](const std::string& way) {
    ExpectSays(Do("qemu-img info " + way), "64 MiB");
    const std::string said =
        Do("qemu-io -c 'write -P 7 1M 1M' -c 'read -P 7 1M 1M' -c 'write -z 1M 64k' -c 'discard 0 64k' "
           "-c flush -c 'read -P 0 1M 64k' -c 'read -P 7 1088k 64k' " +
           way);
    EXPECT_EQ(said.find("failed"), std::string::npos) << said;
    Do("qemu-img convert -O raw " + way + " out; cmp -n 1048576 out /dev/zero; rm out");
  };
  ServeByCertificates();
  works(QemuByCertificates("good"));
  EndServer();
  ServeByKeys();
  works(QemuByKey("bob"));
  EndServer();
}

TEST_F(TlsTest, Tcp) {
  Serve({"--tls-certificates=" + folder_ + "/good"}, "nbds://127.0.0.1:0/disk");
  const std::string& said = server_->output();
  const size_t begin = said.find("nbds://");
  const std::string uri = said.substr(begin, said.find('\n', begin) - begin) + "?tls-certificates=" + folder_ + "/good";
  ExpectServes(uri);
  ExpectCopies(uri);
  EndServer();
}

TEST_F(TlsTest, OfferedItIsTheClientsChoice) {
  ServeByCertificates({"--tls=on"});
  const std::string plain = "nbd+unix:///disk?socket=" + socket_;
  ExpectSays(server_->output(), "64 MiB on " + plain + "\n");
  ExpectServes(plain);
  ExpectServes(ByCertificates("good"));
  EXPECT_EQ(Do("nbdinfo '" + plain + "'").find("with TLS"), std::string::npos);
  ExpectCopies(plain);
  ExpectSays(Do("nbdinfo '" + ByCertificates("good") + "'"), "with TLS");
  EndServer();
}

TEST_F(TlsTest, RequiredNobodyIsServedWithoutIt) {
  ServeByCertificates();
  const std::string plain = "nbd+unix:///disk?socket=" + socket_;
  DoInVain("nbdinfo '" + plain + "'");
  DoInVain("nbdinfo --list '" + plain + "'");
  DoInVain("qemu-img info '" + plain + "'");
  // By the one option that has no error.
  NbdClient old(socket_);
  old.Receive(18);
  old.Send(Big(4, 3) + ClientOption(1, "disk"));
  EXPECT_EQ(old.Receive(1000), "");
  EXPECT_TRUE(server_->WaitFor("an export chosen without TLS")) << server_->output();
  ExpectServes(ByCertificates("good"));
  EndServer();
}

TEST_F(TlsTest, AServerWithoutTlsRefusesIt) {
  Serve({});
  DoInVain("nbdinfo '" + ByCertificates("good") + "'");
  DoInVain("qemu-img info " + QemuByCertificates("good"));
  ExpectServes("nbd+unix:///disk?socket=" + socket_);
}

// By qemu: the libnbd of Debian 12 takes any certificate.
TEST_F(TlsTest, AServerThatIsNotTrusted) {
  const auto expect_refused = [&](const std::string& way) {
    DoInVain("qemu-img info " + way);
    // It does not say why it leaves.
    EXPECT_TRUE(server_->WaitFor("it may not trust this server's certificate")) << way << "\n" << server_->output();
    ExpectServes(ByCertificates("good"));
  };
  ServeByCertificates();
  ExpectSays(Do("qemu-img info " + QemuByCertificates("good")), "64 MiB");
  expect_refused(QemuByCertificates("other"));
  ServeByCertificates();
  expect_refused(QemuByCertificates("good") + ".elsewhere");
  EndServer();
  Serve({"--tls-certificates=" + folder_ + "/expired-server"});
  ExpectSays(server_->output(), "server-cert.pem has expired");
  expect_refused(QemuByCertificates("good"));
  EndServer();
}

TEST_F(TlsTest, ClientsAreVerified) {
  ServeByCertificates({"--tls-verify-peer"});
  ExpectServes(ByCertificates("good"));
  ExpectRefused(ByCertificates("no-certificate"), "the client has shown no certificate", ByCertificates("good"));
  ExpectRefused(ByCertificates("other-certificate"), "The certificate issuer is unknown", ByCertificates("good"));
  ExpectRefused(ByCertificates("expired-client"), "The certificate chain uses expired certificate", ByCertificates("good"));
  ExpectRefused(ByCertificates("client-of-servers"), "certificate chain does not match the intended purpose",
                ByCertificates("good"));
  ExpectServes(ByCertificates("revoked-client"));
  DoInVain("qemu-img info " + QemuByCertificates("no-certificate"));
  ExpectSays(Do("qemu-img info " + QemuByCertificates("good")), "64 MiB");
  EndServer();
  Serve({"--tls-verify-peer", "--tls-certificates=" + folder_ + "/revoking"});
  ExpectRefused(ByCertificates("revoked-client"), "The certificate chain is revoked", ByCertificates("good"));
  // Unless it is asked for, anybody may come who trusts the server.
  ServeByCertificates();
  ExpectServes(ByCertificates("no-certificate"));
  ExpectServes(ByCertificates("other-certificate"));
  EndServer();
}

TEST_F(TlsTest, KeysThatAreNotKnown) {
  ServeByKeys();
  ExpectRefused(ByKey("alice", "wrong-psk"), "the client's key is not that of a user", ByKey("alice"));
  ExpectRefused(ByKey("mallory", "wrong-psk"), "the client's key is not that of a user", ByKey("bob"));
  // A client of certificates.
  DoInVain("nbdinfo '" + ByCertificates("good") + "'");
  EXPECT_TRUE(server_->WaitFor("the client shows no key")) << server_->output();
  ExpectServes(ByKey("alice"));
  EndServer();
  ServeByCertificates();
  DoInVain("nbdinfo '" + ByKey("alice") + "'");
  EXPECT_TRUE(server_->WaitFor("no agreement on TLS")) << server_->output();
  ExpectServes(ByCertificates("good"));
  EndServer();
}

TEST_F(TlsTest, VersionsOfTls) {
  ServeByCertificates();
  const auto by_version = [&](const std::string& priority) {
    return Shell("cd " + folder_ +
                 "; qemu-io -c 'write -P 7 12345 100000' -c 'read -P 7 12345 100000' --object tls-creds-x509,id=tls0,"
                 "endpoint=client,dir=good,priority=" +
                 priority + " --image-opts " + QemuDisk());
  };
  for (const char* good : {"NORMAL:-VERS-ALL:+VERS-TLS1.2", "NORMAL:-VERS-ALL:+VERS-TLS1.3"}) {
    const Result result = by_version(good);
    EXPECT_EQ(result.exit_code, 0) << good << "\n" << result.output << server_->output();
  }
  EXPECT_NE(by_version("NORMAL:-VERS-ALL:+VERS-TLS1.1").exit_code, 0);
  EXPECT_TRUE(server_->WaitFor("the client speaks neither TLS 1.2 nor 1.3")) << server_->output();
  EndServer();
}

// Somebody in between cannot slip in options, neither at once nor later.
TEST_F(TlsTest, PlainTextBehindStartTlsIsNeverTaken) {
  ServeByCertificates();
  const std::string slipped_in = ClientOption(3, "") + ClientOption(7, Big(4, 0) + Big(2, 0));
  const std::string ack = OptionReply(5, 1);
  {
    NbdClient client(socket_);
    client.Receive(18);
    client.Send(Big(4, 3) + ClientOption(5, "") + slipped_in);
    EXPECT_EQ(client.Receive(1000), ack) << "and the end";
    EXPECT_TRUE(server_->WaitFor("more behind STARTTLS")) << server_->output();
  }
  {
    NbdClient client(socket_);
    client.Receive(18);
    client.Send(Big(4, 3) + ClientOption(5, ""));
    EXPECT_EQ(client.Receive(20), ack);
    client.Send(slipped_in);
    const std::string rest = client.Receive(1000);
    EXPECT_LE(rest.size(), 7u) << "an alert at most";
    EXPECT_EQ(rest.find("disk"), std::string::npos);
    EXPECT_TRUE(server_->WaitFor("no agreement on TLS")) << server_->output();
  }
  ExpectServes(ByCertificates("good"));
  EndServer();
}

TEST_F(TlsTest, ConnectionsThatBreakAtAnyByte) {
  ServeByKeys();
  const auto count_files = [&] { return Do("ls /proc/" + std::to_string(server_->pid()) + "/fd | wc -l"); };
  const std::string files = count_files();
  BreakingProxy proxy(folder_ + "/proxy", socket_);
  const std::string uri = "nbds+unix://alice@/disk?socket=" + folder_ + "/proxy&tls-psk-file=" + folder_ + "/psk/keys.psk";
  ExpectServes(uri);
  // What nbdinfo says ends with two requests to disconnect. From the first on the server may have nothing more to do.
  const uint64_t whole = proxy.said;
  ASSERT_GT(whole, 500u);
  RecordProperty("bytes", std::to_string(whole));
  for (proxy.limit = 0; proxy.limit < whole - 200; ++proxy.limit) DoInVain("nbdinfo --size '" + uri + "'");
  for (; proxy.limit < whole; ++proxy.limit) Shell("nbdinfo --size '" + uri + "'");
  ExpectServes(ByKey("alice"));
  for (int tries = 0; tries < 100 && count_files() != files; ++tries) usleep(100000);
  EXPECT_EQ(count_files(), files);
  EndServer();
}

TEST_F(TlsTest, StrangersDoNotHoldUpOthers) {
  ServeByCertificates({"--handshake-timeout=1", "-v"});
  const auto start = std::chrono::steady_clock::now();
  NbdClient silent(socket_), dripping(socket_), gone(socket_);
  for (NbdClient* client : {&silent, &dripping, &gone}) {
    client->Receive(18);
    client->Send(Big(4, 3) + ClientOption(5, ""));
    EXPECT_EQ(client->Receive(20), OptionReply(5, 1));
  }
  gone.CloseSending();
  // The beginning of a handshake of 4 KiB, a byte at a time.
  std::thread drip([&] {
    const std::string bytes = std::string("\x16\x03\x01\x10\x00\x01\x00\x0f\xfc\x03\x03", 11) + std::string(15, 'x');
    for (char byte : bytes) {
      dripping.Send(std::string(1, byte));
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
    }
  });
  ExpectServes(ByCertificates("good"));
  silent.Receive(1000);
  dripping.Receive(1000);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(10));
  EXPECT_TRUE(silent.Closed());
  gone.Receive(1000);
  EXPECT_TRUE(server_->WaitFor("the client has closed the connection")) << server_->output();
  drip.join();
  ExpectServes(ByCertificates("good"));
  EndServer();
}

// libnbd from Python, whose interpreter must be the system's.
TEST_F(TlsTest, IdleTimeoutEndAndCutConnections) {
  ServeByCertificates({"--idle-timeout=1", "-v"});
  const std::string connect =
      "import nbd, os, signal, sys, time\nh = nbd.NBD()\nh.set_uri_allow_local_file(True)\nh.connect_uri('" +
      ByCertificates("good") + "')\nassert h.get_tls_negotiated()\n";
  const auto python = [&](const std::string& script) { return "/usr/bin/python3 - <<'EOF'\n" + connect + script + "\nEOF"; };
  // One that asks now and then stays; one that is silent for longer does not.
  Do(python("for i in range(8):\n  h.pwrite(b'x' * 1000, i * 1000)\n  time.sleep(0.2)\n"));
  const std::string idle = DoInVain(python("time.sleep(2.5)\nprint('waited')\nh.pread(512, 0)\n"));
  ExpectSays(idle, "waited");
  EXPECT_TRUE(server_->WaitFor("nothing moved for too long")) << server_->output();
  // Ended without an end of TLS.
  EndServer();
  ServeByCertificates({"-v"});
  Shell("cd " + folder_ + "; " + python("h.pread(512, 0)\nos.kill(os.getpid(), signal.SIGKILL)\n"));
  EXPECT_TRUE(server_->WaitFor("the connection ended, and TLS did not")) << server_->output();
  ExpectServes(ByCertificates("good"));
  EndServer();
}

// What arrived before the signal is answered, and then the client is told that it is the end.
TEST_F(TlsTest, ASignalEndsItCleanly) {
  ServeByCertificates();
  Process client(
      {"/usr/bin/python3", "-u", "-c",
       "import nbd, sys\nh = nbd.NBD()\nh.set_uri_allow_local_file(True)\nh.connect_uri(sys.argv[1])\nprint('there')\n"
       "while not h.aio_is_dead() and not h.aio_is_closed():\n  h.poll(20000)\nprint('closed' if h.aio_is_closed() else "
       "'dead')\n",
       ByCertificates("good")});
  ASSERT_TRUE(client.WaitFor("there")) << client.output();
  EndServer();
  client.Wait();
  ExpectSays(client.output(), "closed");
}

TEST_F(TlsTest, BadCommandLinesAndFiles) {
  const std::string uri = "nbd+unix:///?socket=" + socket_;
  const auto in = [&](const char* path) { return folder_ + "/" + path; };
  Shell("cd " + folder_ +
        "; mkdir mixed garbage bare; cp good/server-cert.pem mixed; cp other/server-key.pem mixed; "
        "cp good/server-*.pem bare; echo nonsense > garbage/server-cert.pem; cp good/server-key.pem garbage; : > empty.psk; "
        "printf 'alice:12\\nbob\\n' > bad.psk; cp psk/keys.psk open.psk; chmod 644 open.psk");
  const std::string certificates = "--tls-certificates=" + in("good"), keys = "--tls-psk=" + in("psk/keys.psk");
  struct Row {
    std::vector<std::string> arguments;
    int exit_code;
    std::string says;
  };
  const Row rows[] = {
      {{uri, "--tls=maybe"}, 2, "\"maybe\" is none of off, on and require"},
      {{uri, "--tls=on"}, 2, "--tls=on needs what proves who the server is: give --tls-certificates=DIR or --tls-psk=FILE"},
      {{uri, "--tls=require"}, 2, "--tls=require needs"},
      {{"nbds" + uri.substr(3)}, 2, "the target's nbds needs"},
      {{"nbds" + uri.substr(3), "--tls=on", certificates}, 2, "--tls=on serves without it too"},
      {{"nbds" + uri.substr(3), "--tls=off"}, 2, "asks for TLS, and --tls=off for none"},
      {{uri, "--tls=off", certificates}, 2, "--tls-certificates is given, and --tls=off"},
      {{uri, "--tls=off", keys}, 2, "--tls-psk is given, and --tls=off"},
      {{uri, keys, certificates}, 2, "give one"},
      {{uri, "--tls-verify-peer"}, 2, "it needs --tls-certificates=DIR"},
      {{uri, "--tls-verify-peer", keys}, 2, "is refused anyway"},
      {{"/dev/nbd0", certificates}, 2, "served to this machine's kernel"},
      {{"nbds://host/?tls-certificates=x"}, 2, "which is for clients"},
      {{uri, "--tls-certificates=" + in("none")}, 3, "none/, which --tls-certificates names: No such file"},
      {{uri, "--tls-certificates=" + in("no-certificate")}, 3, "server-cert.pem, this server's certificate: No such file"},
      {{uri, "--tls-certificates=" + in("mixed")}, 1, "server-key.pem is not the key of the certificate"},
      {{uri, "--tls-certificates=" + in("garbage")}, 1, "garbage/server-cert.pem and"},
      {{uri, "--tls-certificates=" + in("bare"), "--tls-verify-peer"}, 3, "ca-cert.pem, who must have signed"},
      {{uri, "--tls-psk=" + in("none")}, 3, "none, which --tls-psk names: No such file"},
      {{uri, "--tls-psk=" + in("empty.psk")}, 1, "psktool -u USER -p FILE makes one"},
      {{uri, "--tls-psk=" + in("bad.psk")}, 1, "bad.psk, line 2: is not USER:KEY"},
      {{uri, "--tls-psk=" + in("good")}, 1, "good"},
  };
  for (const Row& row : rows) {
    std::vector<std::string> arguments = {kMemdisk, "1M"};
    arguments.insert(arguments.end(), row.arguments.begin(), row.arguments.end());
    const Result result = RunToEnd(arguments);
    std::string line;
    for (const std::string& argument : row.arguments) line += argument + " ";
    EXPECT_EQ(result.exit_code, row.exit_code) << line << "\n" << result.output;
    EXPECT_NE(result.output.find(row.says), std::string::npos) << line << "\n" << result.output;
  }
  Serve({"--tls-psk=" + in("open.psk")});
  ExpectSays(server_->output(), "open.psk is secret, and every user may read it");
}

// The sessions of README.md, typed in one shell, say what is printed there.
TEST_F(TlsTest, TheReadmeTellsTheTruth) {
  const testing::Session session = testing::SessionOf("README.md", "tests/interop:tls");
  ASSERT_GE(session.size(), 10u);
  testing::ExpectSession(session, folder_, kMemdisk.substr(0, kMemdisk.rfind('/')));
}

TEST_F(TlsTest, FilesThatItMayNotRead) {
  if (geteuid() == 0 && RunToEnd({"setpriv", "--reuid=65534", "true"}).exit_code != 0) {
    GTEST_SKIP() << "root may read everything, and cannot become another user here";
  }
  Do("chmod 755 . good; chmod 0 good/server-key.pem psk/keys.psk");
  const std::string become = geteuid() == 0 ? "setpriv --reuid=65534 --clear-groups " : "";
  // A program that another user can surely run.
  const std::string run =
      "cp -L " + kMemdisk + " memdisk; chmod 755 memdisk; " + become + "./memdisk 1M 'nbd+unix:///?socket=s' ";
  for (const char* option : {"--tls-certificates=good", "--tls-psk=psk/keys.psk"}) {
    const Result result = Shell("cd " + folder_ + "; " + run + option);
    EXPECT_EQ(result.exit_code, 1) << result.output;
    ExpectSays(result.output, "Permission denied");
  }
}

}  // namespace
}  // namespace buse
