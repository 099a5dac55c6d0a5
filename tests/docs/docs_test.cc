// SPDX-License-Identifier: Apache-2.0
//
// The C++ in the documentation is code that compiles: every block is a file of examples/, or a region of one, letter by letter.

#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/process.h"

namespace buse {
namespace {

std::string Content(const std::string& path) {
  std::ifstream file(testing::Runfile(path));
  EXPECT_TRUE(file.good()) << path;
  std::stringstream content;
  content << file.rdbuf();
  return content.str();
}

// What a page shows of "FILE" (all but its opening comment, the marks of regions and the formatter's) or of "FILE#REGION".
std::string Shown(const std::string& source) {
  const size_t hash = source.find('#');
  std::istringstream lines(Content(source.substr(0, hash)));
  const std::string region = hash == std::string::npos ? "" : source.substr(hash + 1);
  bool opening = region.empty(), inside = region.empty();
  std::string shown;
  for (std::string line; std::getline(lines, line);) {
    if (opening && (line.rfind("//", 0) == 0 || line.empty())) continue;
    opening = false;
    if (line.rfind("// clang-format", 0) == 0) continue;
    if (line.rfind("// [", 0) == 0) {
      if (line == "// [" + region + "]") inside = true;
      if (line == "// [/" + region + "]") inside = false;
      continue;
    }
    if (inside) shown += line + "\n";
  }
  return shown;
}

struct Block {
  std::string source;
  std::string code;
};

// The C++ blocks of a page, each with the comment above it that names its source.
std::vector<Block> Blocks(const std::string& page) {
  std::istringstream lines(Content(page));
  std::vector<Block> blocks;
  std::string comment, line;
  while (std::getline(lines, line)) {
    if (line.rfind("<!-- ", 0) == 0) comment = line.substr(5, line.size() - 9);
    if (line.rfind("```", 0) != 0) continue;
    const bool code = line == "```c++";
    Block block = {comment, ""};
    comment.clear();
    while (std::getline(lines, line) && line != "```") block.code += line + "\n";
    if (code) blocks.push_back(block);
  }
  return blocks;
}

TEST(DocsTest, EveryBlockIsCodeThatCompiles) {
  size_t count = 0;
  for (const char* page : {"README.md", "layers/README.md"}) {
    for (const Block& block : Blocks(page)) {
      ASSERT_NE(block.source, "") << page << ": no comment <!-- examples/FILE --> above\n" << block.code;
      EXPECT_EQ(block.code, Shown(block.source)) << page << " and " << block.source << " differ";
      ++count;
    }
  }
  EXPECT_GE(count, 5u);
}

}  // namespace
}  // namespace buse
