// Write load whose every acknowledgement is checked after the machine was killed. Each writer has a folder of its own on
// an ext4 file system on /dev/vda; it appends numbered records to files of kRecordsPerFile, makes each one durable, and
// only then prints `ack WRITER NUMBER`.
#define _GNU_SOURCE
#include "guest.h"
#include "record.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

_Noreturn static void writer(unsigned which) {
  char folder[32], path[64];
  snprintf(folder, sizeof folder, "/data/writer-%u", which);
  if (mkdir(folder, 0755) != 0 && errno != EEXIST) die(folder);
  int parent = open("/data", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (parent < 0 || fsync(parent) != 0) die("/data");
  int directory = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (directory < 0) die(folder);
  int file = -1;
  static uint64_t record[kRecordWords];
  for (uint64_t number = 0;; number++) {
    bool first = number % kRecordsPerFile == 0;
    if (first) {
      if (file >= 0) close(file);
      snprintf(path, sizeof path, "%s/%06llu", folder, (unsigned long long)(number / kRecordsPerFile));
      file = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
      if (file < 0) die(path);
    }
    fillRecord(record, which, number);
    if (write(file, record, kRecordSize) != kRecordSize) die("write");
    if (number % 2 == 0 ? fsync(file) != 0 : fdatasync(file) != 0) die("fsync");
    if (first && fsync(directory) != 0) die("fsync of the folder");
    say("ack %u %llu", which, (unsigned long long)number);
  }
}

_Noreturn void writeRecords(void) {
  mkdir("/data", 0755);
  if (mount("/dev/vda", "/data", "ext4", 0, "discard") != 0) die("mount /dev/vda");
  unsigned count = (unsigned)numberOption("lab.writers", 2);
  for (unsigned which = 0; which < count; which++) {
    pid_t child = fork();
    if (child < 0) die("fork");
    if (child == 0) writer(which);
  }
  while (wait(NULL) >= 0 || errno == EINTR) continue;
  die("all writers are gone");
}
