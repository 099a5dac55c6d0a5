// SPDX-License-Identifier: Apache-2.0
//
// The list of layers has every layer whose header is in layers/.

#include "tests/model/layers.h"

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <regex>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace buse::testing {
namespace {

// Templates over devices that say what is below them, and observers made from a hook.
std::vector<std::string> LayersIn(const std::filesystem::path& header) {
  std::ifstream in(header);
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  static const std::regex kLayer("\\nstruct (\\w+) \\{|\\nusing (\\w+) = Observer<");
  std::vector<std::string> layers;
  for (std::sregex_iterator match(text.begin(), text.end(), kLayer), end; match != end; ++match) {
    const size_t begin = match->position();
    const std::string body = text.substr(begin, text.find("\n};", begin) - begin);
    if ((*match)[2].matched) layers.push_back((*match)[2]);
    if ((*match)[1].matched && body.find("\n  using Below =") != std::string::npos) layers.push_back((*match)[1]);
  }
  return layers;
}

TEST(LayersTest, TheListHasEveryLayer) {
  std::vector<std::string> found;
  for (const auto& entry : std::filesystem::directory_iterator("layers")) {
    if (entry.path().extension() != ".h") continue;
    for (const std::string& layer : LayersIn(entry.path())) found.push_back(layer);
  }
  // What observers are made of, no layer by itself.
  std::erase(found, "Observer");
  std::sort(found.begin(), found.end());
  EXPECT_EQ(found, std::vector<std::string>(EveryLayer::kNames.begin(), EveryLayer::kNames.end()))
      << "a layer needs a line in BUSE_EVERY_LAYER of tests/model/layers.h, in alphabetical order";
}

}  // namespace
}  // namespace buse::testing
