// SPDX-License-Identifier: Apache-2.0
//
// Who is compared: servers of ours and of others, how each is started, and in which groups they stand side by side.

#ifndef BENCH_SUBJECTS_H_
#define BENCH_SUBJECTS_H_

#include <cstdint>
#include <string>
#include <vector>

namespace buse::bench {

enum class Kind {
  kFloor,  // what cannot be beaten: the mark to come close to
  kOurs,
  kPeer,       // other people's servers, of whom the fastest is the mark to beat
  kReference,  // for orientation: does less, or is no server
};
const char* KindName(Kind kind);

// What keeps the bytes of a subject.
enum class Medium {
  kOwn,        // the server itself
  kTmpfs,      // a file on a memory file system
  kFile,       // a file in the folder for files
  kNone,       // nothing: reads have any content
  kInProcess,  // a file, and there is no server
};

struct Subject {
  std::string name;
  std::string what;  // a sentence without a full stop
  Kind kind;
  Medium medium;
  // The command line. {size} {socket} {file} {folder} {device} stand for what is only known when it starts, {bench} for the
  // folder of the benchmark's own programs.
  std::vector<std::string> command;
  std::vector<std::string> version;  // a command whose first line tells it
  std::string export_name = {};
  std::vector<std::string> prepare = {};  // a command that makes a medium of {file}, where that takes one
  // Where it wants them: the text of {folder}/config, and the file in which it leaves its process id.
  std::string config = {};
  bool daemon = false;       // goes to the background, leaving its process id in {folder}/pid
  bool kernel_disk = false;  // is measured through {device}
  // For such: a command that attaches its socket to the device, and ends. Absent: it attaches itself.
  std::vector<std::string> attach = {};
};

// Subjects that do the same thing, so that a row compares them.
struct Group {
  std::string name;
  std::string what;
  std::vector<Subject> subjects;
};

// `in_process` are the subjects of the group "stacks".
std::vector<Group> MakeGroups(std::vector<Subject> in_process);

// Rows that are measured together, by a name of their own.
struct RowSet {
  std::string name;
  std::string what;
  std::vector<std::string> rows;
};

const std::vector<RowSet>& RowSets();

}  // namespace buse::bench

#endif  // BENCH_SUBJECTS_H_
