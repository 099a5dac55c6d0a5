// SPDX-License-Identifier: Apache-2.0

#include "bench/results.h"

#include <algorithm>
#include <cassert>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "bench/json.h"

namespace buse::bench {
namespace {

const char kThroughput[] = "requests_per_second";
const char kCpu[] = "server_cpu_us_per_request";

void WriteSpread(JsonWriter& json, const std::string& name, const Spread& spread) {
  json.BeginObject(name);
  json.Number("median", spread.median);
  json.Number("min", spread.min);
  json.Number("max", spread.max);
  json.EndObject();
}

std::set<std::string> MetricsOf(const Result& result) {
  std::set<std::string> metrics;
  for (const auto& [run, sample] : result.samples) {
    for (const auto& [metric, value] : sample) metrics.insert(metric);
  }
  return metrics;
}

void WriteResult(JsonWriter& json, const Row& row, const Result& result) {
  json.BeginObject();
  json.Text("subject", result.subject->name);
  json.Text("kind", KindName(result.subject->kind));
  if (!result.failure.empty()) json.Text("failure", result.failure);
  json.BeginObject("summary");
  for (const std::string& metric : MetricsOf(result)) WriteSpread(json, metric, *result.Of(metric));
  json.EndObject();
  json.BeginArray("runs");
  for (const auto& [run, sample] : result.samples) {
    json.BeginObject();
    json.Number("run", run + 1);
    for (const auto& [metric, value] : sample) json.Number(metric, value);
    json.EndObject();
  }
  json.EndArray();
  json.BeginArray("ratios");
  for (const Result* mark : row.MarksFor(result)) {
    for (const char* metric : {kThroughput, kCpu}) {
      if (const absl::optional<Spread> ratio = Row::Ratio(result, *mark, metric)) {
        json.BeginObject();
        json.Text("to", mark->subject->name);
        json.Text("kind", KindName(mark->subject->kind));
        json.Text("metric", metric);
        WriteSpread(json, "ratio", *ratio);
        json.EndObject();
      }
    }
  }
  json.EndArray();
  json.EndObject();
}

void WriteWork(JsonWriter& json, const Task& task) {
  if (task.kind != Task::Kind::kWork) return;
  json.BeginObject("work");
  json.Number("block", task.work.block);
  json.Text("order", task.work.random ? "random" : "sequential");
  json.Number("read_percent", task.work.read_percent);
  json.Number("depth", task.work.depth);
  json.Number("connections", task.work.connections);
  json.Number("flush_every", task.work.flush_every);
  json.EndObject();
}

// Digits in groups of three: 1,234,567.
std::string Grouped(double value) {
  std::string digits = absl::StrFormat("%.0f", value);
  for (int at = static_cast<int>(digits.size()) - 3; at > 0; at -= 3) digits.insert(at, ",");
  return digits;
}

std::string Cell(const Result& result, const char* metric, const char* format) {
  const absl::optional<Spread> spread = result.Of(metric);
  return spread ? absl::StrFormat(*absl::ParsedFormat<'f'>::New(format), spread->median) : "";
}

std::string Line(const Row& row, const Result& result) {
  const absl::optional<Spread> rate = result.Of(kThroughput);
  const std::string spread =
      rate && rate->median > 0 ? absl::StrFormat("%.0f-%.0f%%", rate->min / rate->median * 100, rate->max / rate->median * 100)
                               : "";
  std::string line = absl::StrFormat("  %-20s %11s %9s %9s %9s %9s", result.subject->name, rate ? Grouped(rate->median) : "",
                                     spread, Cell(result, kCpu, "%.2f"), Cell(result, "latency_p50_us", "%.1f"),
                                     Cell(result, "latency_p99_us", "%.1f"));
  if (const auto memory = result.Of("memory_bytes")) {
    absl::StrAppendFormat(&line, "  %.3f GiB of memory", memory->median / (1 << 30));
  }
  if (const auto idle = result.Of("server_cpu_us_per_second")) {
    absl::StrAppendFormat(&line, "  %.1f us of CPU in a second", idle->median);
  }
  if (const auto below = result.Of("below_bytes_written_per_write")) {
    absl::StrAppendFormat(&line, "  below, per write: %.0f B, %.2f writes, %.2f flushes", below->median,
                          result.Of("below_writes_per_write")->median, result.Of("below_flushes_per_write")->median);
  }
  std::vector<std::string> ratios;
  for (const Result* mark : row.MarksFor(result)) {
    const auto throughput = Row::Ratio(result, *mark, kThroughput);
    const auto cpu = Row::Ratio(result, *mark, kCpu);
    if (!throughput) continue;
    ratios.push_back(absl::StrFormat("%.2f x %s", throughput->median, mark->subject->name) +
                     (cpu ? absl::StrFormat(" (CPU %.2f x)", cpu->median) : ""));
  }
  if (!ratios.empty()) absl::StrAppend(&line, "  ", absl::StrJoin(ratios, ", "));
  if (!result.failure.empty()) absl::StrAppend(&line, "  failed: ", result.failure);
  return line + "\n";
}

}  // namespace

Spread SpreadOf(std::vector<double> values) {
  assert(!values.empty());
  std::sort(values.begin(), values.end());
  const size_t middle = values.size() / 2;
  const double median = values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
  return {median, values.front(), values.back()};
}

absl::optional<Spread> Result::Of(const std::string& metric) const {
  std::vector<double> values;
  for (const auto& [run, sample] : samples) {
    if (const auto found = sample.find(metric); found != sample.end()) values.push_back(found->second);
  }
  if (values.empty()) return absl::nullopt;
  return SpreadOf(std::move(values));
}

absl::optional<Spread> Row::Ratio(const Result& a, const Result& b, const std::string& metric) {
  std::vector<double> ratios;
  for (const auto& [run, sample] : a.samples) {
    const auto other = b.samples.find(run);
    if (other == b.samples.end()) continue;
    const auto numerator = sample.find(metric);
    const auto denominator = other->second.find(metric);
    if (numerator == sample.end() || denominator == other->second.end() || denominator->second == 0) continue;
    ratios.push_back(numerator->second / denominator->second);
  }
  if (static_cast<int>(ratios.size()) < kRunsForRatios) return absl::nullopt;
  return SpreadOf(std::move(ratios));
}

std::vector<const Result*> Row::MarksFor(const Result& ours) const {
  std::vector<const Result*> marks;
  if (ours.subject->kind != Kind::kOurs) return marks;
  const Result* best = nullptr;
  const Result* first = nullptr;
  for (const Result& other : results) {
    const absl::optional<Spread> rate = other.Of(kThroughput);
    if (!rate) continue;
    switch (other.subject->kind) {
      case Kind::kFloor:
      case Kind::kReference:
        marks.push_back(&other);
        break;
      case Kind::kPeer:
        if (best == nullptr || rate->median > best->Of(kThroughput)->median) best = &other;
        break;
      case Kind::kOurs:
        if (first == nullptr) first = &other;
    }
  }
  if (best != nullptr) marks.push_back(best);
  if (first != nullptr && first != &ours) marks.push_back(first);
  return marks;
}

std::string Report::ToJson() const {
  JsonWriter json;
  json.BeginObject();
  json.Text("format", "buse-bench 1");
  json.Text("date", date);
  json.BeginArray("command");
  for (const std::string& word : command) json.Item(word);
  json.EndArray();
  json.Bool("quick", quick);
  json.Number("runs", runs);
  json.Number("runs_for_ratios", kRunsForRatios);
  json.Text("placement", placement);
  json.Number("seconds", std::chrono::duration<double>(settings.duration).count());
  json.Number("warmup_seconds", std::chrono::duration<double>(settings.warmup).count());
  json.Number("size", static_cast<double>(settings.size));
  json.Number("client_spin_us", std::chrono::duration<double, std::micro>(settings.spin).count());
  json.BeginObject("machine");
  for (const auto& [name, value] : machine) json.Text(name, value);
  json.EndObject();
  json.BeginArray("subjects");
  for (const auto& [group, subject, version] : subjects) {
    json.BeginObject();
    json.Text("group", group->name);
    json.Text("name", subject->name);
    json.Text("kind", KindName(subject->kind));
    json.Text("what", subject->what);
    json.Text("command", CommandLine(*subject));
    json.Text("version", version);
    json.EndObject();
  }
  json.EndArray();
  json.BeginArray("missing");
  for (const auto& [name, reason] : missing) {
    json.BeginObject();
    json.Text("subject", name);
    json.Text("reason", reason);
    json.EndObject();
  }
  json.EndArray();
  json.BeginArray("rows");
  for (const Row& row : rows) {
    json.BeginObject();
    json.Text("name", row.name);
    json.Text("group", row.group->name);
    json.Text("command", absl::StrCat("bazel run -c opt //bench -- --rows ", row.name));
    WriteWork(json, row.task);
    json.BeginArray("results");
    for (const Result& result : row.results) WriteResult(json, row, result);
    json.EndArray();
    json.EndObject();
  }
  json.EndArray();
  json.EndObject();
  return json.text();
}

std::string Report::ToText() const {
  std::string text;
  for (const auto& [name, value] : machine) absl::StrAppend(&text, name, ": ", value, "\n");
  for (const Row& row : rows) {
    absl::StrAppendFormat(&text, "\n%s\n  %-20s %11s %9s %9s %9s %9s\n", row.name, "", "requests/s", "spread", "us CPU",
                          "p50 us", "p99 us");
    for (const Result& result : row.results) text += Line(row, result);
  }
  if (!missing.empty()) text += "\nNot measured:\n";
  for (const auto& [name, reason] : missing) absl::StrAppend(&text, "  ", name, ": ", reason, "\n");
  if (runs < kRunsForRatios) {
    absl::StrAppendFormat(&text, "\nNo ratios from %d run%s: they take %d.\n", runs, runs == 1 ? "" : "s", kRunsForRatios);
  }
  return text;
}

}  // namespace buse::bench
