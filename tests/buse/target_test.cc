// SPDX-License-Identifier: Apache-2.0
//
// Where to serve: every form of a target, its canonical URI, and the sentence for everything that is none.

#include "buse/target.h"

#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"

namespace buse {
namespace {

using Kind = Target::Kind;

Target Kernel(const std::string& path) {
  Target target;
  target.path = path;
  return target;
}
Target Unix(const std::string& name, const std::string& path) {
  Target target;
  target.kind = Kind::kUnixSocket;
  target.path = path;
  target.export_name = name;
  return target;
}
Target Tcp(const std::string& host, uint16_t port, const std::string& name) {
  Target target;
  target.kind = Kind::kTcp;
  target.host = host;
  target.port = port;
  target.export_name = name;
  return target;
}

Target Vsock(uint32_t cid, uint32_t port, const std::string& name) {
  Target target;
  target.kind = Kind::kVsock;
  target.cid = cid;
  target.port = port;
  target.export_name = name;
  return target;
}
Target StandardInput() {
  Target target;
  target.kind = Kind::kStandardInput;
  return target;
}
Target WithTls(Target target) {
  target.tls = true;
  return target;
}

TEST(TargetTest, EveryFormIsParsedAndItsCanonicalUriParsesToTheSame) {
  struct Row {
    std::string text;
    Target target;
    std::string uri;
  };
  const std::string path107(107, 'p');
  const std::string name4096(4096, 'n');
  const std::vector<Row> table = {
      {"/dev/nbd0", Kernel("/dev/nbd0"), "/dev/nbd0"},
      {"/dev/my disk", Kernel("/dev/my disk"), "/dev/my disk"},
      {"nbd+unix:///?socket=/run/x.sock", Unix("", "/run/x.sock"), "nbd+unix:///?socket=/run/x.sock"},
      {"nbd+unix:///disk?socket=x.sock", Unix("disk", "x.sock"), "nbd+unix:///disk?socket=x.sock"},
      {"nbd+unix://?socket=x", Unix("", "x"), "nbd+unix:///?socket=x"},
      {"NBD+Unix:///?socket=x", Unix("", "x"), "nbd+unix:///?socket=x"},
      {"nbd+unix:////disk?socket=x", Unix("/disk", "x"), "nbd+unix:////disk?socket=x"},
      {"nbd+unix:///a%20b%3F?socket=/t/%c3%A4%26+%25", Unix("a b?", "/t/\xc3\xa4&+%"),
       "nbd+unix:///a%20b%3F?socket=/t/%C3%A4%26%2B%25"},
      {"nbd+unix:///?socket=a=b", Unix("", "a=b"), "nbd+unix:///?socket=a%3Db"},
      {"nbd+unix:///?socket=" + path107, Unix("", path107), "nbd+unix:///?socket=" + path107},
      {"nbd://example.com", Tcp("example.com", 10809, ""), "nbd://example.com/"},
      {"nbd://example.com/", Tcp("example.com", 10809, ""), "nbd://example.com/"},
      {"nbd://example.com:10809/disk", Tcp("example.com", 10809, "disk"), "nbd://example.com/disk"},
      {"nbd://example.com:/disk", Tcp("example.com", 10809, "disk"), "nbd://example.com/disk"},
      {"nbd://example.com//disk", Tcp("example.com", 10809, "/disk"), "nbd://example.com//disk"},
      {"nbd://127.0.0.1:1/hello%20world", Tcp("127.0.0.1", 1, "hello world"), "nbd://127.0.0.1:1/hello%20world"},
      {"nbd://h:65535", Tcp("h", 65535, ""), "nbd://h:65535/"},
      {"nbd:///disk", Tcp("localhost", 10809, "disk"), "nbd://localhost/disk"},
      {"nbd://:7000", Tcp("localhost", 7000, ""), "nbd://localhost:7000/"},
      {"nbd://[::1]/", Tcp("::1", 10809, ""), "nbd://[::1]/"},
      {"nbd://[::]:99/a/b", Tcp("::", 99, "a/b"), "nbd://[::]:99/a/b"},
      {"nbd://[::ffff:1.2.3.4]:99", Tcp("::ffff:1.2.3.4", 99, ""), "nbd://[::ffff:1.2.3.4]:99/"},
      {"nbd://[fe80::1%25eth0]:99", Tcp("fe80::1%eth0", 99, ""), "nbd://[fe80::1%25eth0]:99/"},
      {"nbd://h/" + name4096, Tcp("h", 10809, name4096), "nbd://h/" + name4096},
      {"-", StandardInput(), "-"},
      {"nbd+vsock://", Vsock(0xffffffff, 10809, ""), "nbd+vsock:///"},
      {"nbd+vsock:///disk", Vsock(0xffffffff, 10809, "disk"), "nbd+vsock:///disk"},
      {"nbd+vsock://:7000/disk", Vsock(0xffffffff, 7000, "disk"), "nbd+vsock://:7000/disk"},
      {"nbd+vsock://2", Vsock(2, 10809, ""), "nbd+vsock://2/"},
      {"NBD+VSOCK://4294967294:4294967294/", Vsock(4294967294, 4294967294, ""), "nbd+vsock://4294967294:4294967294/"},
      {"nbds://h:1/disk", WithTls(Tcp("h", 1, "disk")), "nbds://h:1/disk"},
      {"NBDS+unix:///disk?socket=x", WithTls(Unix("disk", "x")), "nbds+unix:///disk?socket=x"},
      {"nbds+vsock://3:0/", WithTls(Vsock(3, 0, "")), "nbds+vsock://3:0/"},
  };
  for (const Row& row : table) {
    const absl::StatusOr<Target> target = ParseTarget(row.text);
    ASSERT_TRUE(target.ok()) << target.status();
    EXPECT_EQ(*target, row.target) << row.text;
    EXPECT_EQ(target->Uri(), row.uri);
    const absl::StatusOr<Target> again = ParseTarget(target->Uri());
    ASSERT_TRUE(again.ok()) << again.status();
    EXPECT_EQ(*again, *target) << row.text;
  }
}

TEST(TargetTest, EverythingElseIsRefusedWithASentenceThatSaysWhatToWrite) {
  const std::string forms =
      ": give /dev/nbdN, nbd+unix:///NAME?socket=PATH, nbd://HOST:PORT/NAME, nbd+vsock://:PORT/NAME, or - for standard input";
  const std::string of_clients = ", which is for clients: give this server --tls-";
  const std::vector<std::pair<std::string, std::string>> table = {
      {"", "\"\" is no target" + forms},
      {"nbd0", "\"nbd0\" is no target" + forms},
      {"localhost:10809", "\"localhost:10809\" is no target" + forms},
      {std::string("/dev/nbd\0", 9), "\"/dev/nbd\\000\" has a NUL byte" + forms},
      {"/tmp/x.sock",
       "\"/tmp/x.sock\" is a path and no target: for a Unix socket there, write nbd+unix:///?socket=/tmp/x.sock"},
      {"x.sock", "\"x.sock\" is a path and no target: for a Unix socket there, write nbd+unix:///?socket=x.sock"},
      {"./a b", "\"./a b\" is a path and no target: for a Unix socket there, write nbd+unix:///?socket=./a%20b"},
      {"http://h/", "\"http://h/\" has an unknown scheme \"http\"" + forms},
      {"nbdss://h/", "\"nbdss://h/\" has an unknown scheme \"nbdss\"" + forms},
      {"s+unix:///?socket=x", "\"s+unix:///?socket=x\" has an unknown scheme \"s+unix\"" + forms},
      {"nbd+tcp://h/", "\"nbd+tcp://h/\" has an unknown scheme \"nbd+tcp\"" + forms},
      {"--", "\"--\" is no target" + forms},
      {"nbd://h/#x", "\"nbd://h/#x\" has a fragment, which means nothing to NBD: write # itself as %23"},
      {"nbd+unix:///disk", "\"nbd+unix:///disk\" names no socket: write nbd+unix:///NAME?socket=PATH"},
      {"nbd+unix:///?socket=", "\"nbd+unix:///?socket=\" names no socket: write nbd+unix:///NAME?socket=PATH"},
      {"nbd+unix://tmp/x.sock",
       "\"nbd+unix://tmp/x.sock\" names a host, \"tmp\", which a Unix socket has not: write nbd+unix:///NAME?socket=PATH"},
      {"nbd+unix:///?socket=a&socket=b",
       "\"nbd+unix:///?socket=a&socket=b\" has more than one socket=: a target is one socket"},
      {"nbd+unix:///?sokcet=a",
       "\"nbd+unix:///?sokcet=a\" has an unknown parameter \"sokcet\": the only one is that of nbd+unix:///NAME?socket=PATH"},
      {"nbd+unix:///?socket=a&tls-type=psk",
       "\"nbd+unix:///?socket=a&tls-type=psk\" has tls-type" + of_clients + "certificates=DIR or --tls-psk=FILE"},
      {"nbds://h/?tls-certificates=a",
       "\"nbds://h/?tls-certificates=a\" has tls-certificates" + of_clients + "certificates=DIR or --tls-psk=FILE"},
      {"nbd://h/?socket=a",
       "\"nbd://h/?socket=a\" has an unknown parameter \"socket\": the only one is that of nbd+unix:///NAME?socket=PATH"},
      {"nbd+unix:///?socket=%00/abstract",
       "\"nbd+unix:///?socket=%00/abstract\" has a NUL byte in its socket path: abstract sockets are not supported, give the "
       "path of a file"},
      {"nbd+unix:///?socket=" + std::string(108, 'p'),
       "\"nbd+unix:///?socket=" + std::string(108, 'p') +
           "\" has a socket path of 108 bytes, but the system allows at most 107: use a shorter or a relative path"},
      {"nbd://h/a%00b", "\"nbd://h/a%00b\" has a NUL byte in its export name, which NBD forbids"},
      {"nbd://h/" + std::string(4097, 'n'),
       "\"nbd://h/" + std::string(192, 'n') +
           "\"... has an export name of 4097 bytes, but NBD allows at most 4096: use a shorter name"},
      {"nbd://h/100%", "\"nbd://h/100%\" has \"%\", which is no percent-encoded byte: write a percent sign itself as %25"},
      {"nbd://h/%zz", "\"nbd://h/%zz\" has \"%zz\", which is no percent-encoded byte: write a percent sign itself as %25"},
      {"nbd+unix:///?socket=%4",
       "\"nbd+unix:///?socket=%4\" has \"%4\", which is no percent-encoded byte: write a percent sign itself as %25"},
      {"nbd://h:65536/", "\"nbd://h:65536/\" has \"65536\" as its port: give a number up to 65535, or 0 for a free one"},
      {"nbd://h:-1/", "\"nbd://h:-1/\" has \"-1\" as its port: give a number up to 65535, or 0 for a free one"},
      {"nbd://h:99999999999/",
       "\"nbd://h:99999999999/\" has \"99999999999\" as its port: give a number up to 65535, or 0 for a free one"},
      {"nbd://h:http/", "\"nbd://h:http/\" has \"http\" as its port: give a number up to 65535, or 0 for a free one"},
      {"nbds://u@h/", "\"nbds://u@h/\" names a user" + of_clients + "psk=FILE, which names all of them"},
      {"nbds+unix://u@/?socket=a",
       "\"nbds+unix://u@/?socket=a\" names a user" + of_clients + "psk=FILE, which names all of them"},
      {"nbds+vsock://u@2/", "\"nbds+vsock://u@2/\" names a user" + of_clients + "psk=FILE, which names all of them"},
      {"nbd+vsock://host/", "\"nbd+vsock://host/\" has \"host\" as its CID: give a number up to 4294967294, or none for any"},
      {"nbd+vsock://4294967295/",
       "\"nbd+vsock://4294967295/\" has \"4294967295\" as its CID: give a number up to 4294967294, or none for any"},
      {"nbd+vsock://2:4294967295/",
       "\"nbd+vsock://2:4294967295/\" has \"4294967295\" as its port: give a number up to 4294967294, or 0 for a free one"},
      {"nbd+vsock://2/?socket=a",
       "\"nbd+vsock://2/?socket=a\" has an unknown parameter \"socket\": the only one is that of nbd+unix:///NAME?socket=PATH"},
      {"nbd://a b/", "\"nbd://a b/\" has \"a b\" as its host, which is no name and no address"},
      {"nbd://::1/",
       "\"nbd://::1/\" has an address with several colons: an IPv6 address goes in brackets, such as nbd://[::1]/"},
      {"nbd://[::1/", "\"nbd://[::1/\" lacks the ] that ends an IPv6 address"},
      {"nbd://[h]/", "\"nbd://[h]/\" has \"h\" in brackets, which is no IPv6 address"},
      {"nbd://[::1%00]/", "\"nbd://[::1%00]/\" has \"::1\\000\" in brackets, which is no IPv6 address"},
      {"nbd://[::1]x/", "\"nbd://[::1]x/\" has \"x\" after the address: only :PORT may follow"},
  };
  for (const auto& [text, sentence] : table) {
    const absl::StatusOr<Target> target = ParseTarget(text);
    ASSERT_FALSE(target.ok()) << text << " is " << target->Uri();
    EXPECT_EQ(target.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(target.status().message(), sentence);
  }
}

}  // namespace
}  // namespace buse
