// SPDX-License-Identifier: Apache-2.0
//
// Servers of stacks that the benchmark compares, chosen by name:
//
//   stacks STACK ...    the rest of the command line is that of the stack's server: stacks passthrough4 256M TARGET

#include <array>
#include <cstdio>
#include <cstring>

#include "buse/server.h"
#include "layers/cache.h"
#include "layers/checksum.h"
#include "layers/file_backed.h"
#include "layers/memory.h"
#include "layers/passthrough.h"
#include "layers/stats.h"

namespace {

template <int kDepth, buse::Device B>
struct Deep {
  using Stack = buse::Passthrough<typename Deep<kDepth - 1, B>::Stack>;
};
template <buse::Device B>
struct Deep<0, B> {
  using Stack = B;
};

template <int kDepth>
using Passthroughs = typename Deep<kDepth, buse::Memory>::Stack;

struct Named {
  const char* name;
  int (*main)(int argc, char** argv);
};

constexpr std::array<Named, 12> kStacks = {{{"memory", buse::Server<buse::Memory>::Main},
                                            {"passthrough1", buse::Server<Passthroughs<1>>::Main},
                                            {"passthrough2", buse::Server<Passthroughs<2>>::Main},
                                            {"passthrough4", buse::Server<Passthroughs<4>>::Main},
                                            {"passthrough8", buse::Server<Passthroughs<8>>::Main},
                                            {"passthrough16", buse::Server<Passthroughs<16>>::Main},
                                            {"passthrough32", buse::Server<Passthroughs<32>>::Main},
                                            {"stats", buse::Server<buse::Stats<buse::Memory>>::Main},
                                            {"file", buse::Server<buse::FileBacked>::Main},
                                            {"checksum", buse::Server<buse::Checksum<buse::FileBacked>>::Main},
                                            {"safedisk", buse::Server<buse::Cache<buse::Checksum<buse::FileBacked>>>::Main},
                                            {"direct", buse::Server<buse::DirectFileBacked>::Main}}};

}  // namespace

int main(int argc, char** argv) {
  for (const Named& stack : kStacks) {
    if (argc > 1 && std::strcmp(argv[1], stack.name) == 0) return stack.main(argc - 1, argv + 1);
  }
  std::fprintf(stderr, "usage: stacks STACK ... where STACK is one of:");
  for (const Named& stack : kStacks) std::fprintf(stderr, " %s", stack.name);
  std::fprintf(stderr, "\n");
  return 2;
}
