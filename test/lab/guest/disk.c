// Disk measurements on the raw device /dev/vda, past the guest's page cache, with the kernel's own asynchronous
// interface (io_setup(2)). The device is overwritten.
#define _GNU_SOURCE
#include "guest.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { kMaxDepth = 32, kAlign = 4096 };

struct workload {
  const char *name;
  bool write, random;
  size_t block;
  unsigned depth;
};

static const struct workload kWorkloads[] = {
    {"sequential-write-1m", true, false, 1 << 20, 4}, {"sequential-read-1m", false, false, 1 << 20, 4},
    {"random-read-4k-qd1", false, true, 4096, 1},     {"random-write-4k-qd1", true, true, 4096, 1},
    {"random-read-4k-qd16", false, true, 4096, 16},   {"random-write-4k-qd16", true, true, 4096, 16},
};

// xorshift64: the same places in every run.
static uint64_t nextRandom(uint64_t *state) {
  *state ^= *state << 13;
  *state ^= *state >> 7;
  *state ^= *state << 17;
  return *state;
}

static void measure(int disk, uint64_t size, const struct workload *load, double seconds) {
  aio_context_t context = 0;
  if (syscall(SYS_io_setup, load->depth, &context) != 0) die("io_setup");
  struct iocb requests[kMaxDepth];
  void *buffers[kMaxDepth];
  uint64_t random = 88172645463325252ULL, next = 0, done = 0;
  const uint64_t blocks = size / load->block;
  unsigned flying = 0;
  double begin = now(), took = 0;
  for (unsigned i = 0; i < load->depth; i++) {
    if (posix_memalign(&buffers[i], kAlign, load->block) != 0) die("posix_memalign");
    memset(buffers[i], (int)i + 1, load->block);
  }
  unsigned idle[kMaxDepth], idleCount = load->depth;
  for (unsigned i = 0; i < load->depth; i++) idle[i] = i;
  for (bool stopping = false; !stopping || flying > 0;) {
    struct iocb *batch[kMaxDepth];
    long count = 0;
    while (!stopping && idleCount > 0) {
      unsigned slot = idle[--idleCount];
      uint64_t place = load->random ? nextRandom(&random) % blocks : next++ % blocks;
      requests[slot] = (struct iocb){.aio_data = slot,
                                     .aio_lio_opcode = load->write ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD,
                                     .aio_fildes = (uint32_t)disk,
                                     .aio_buf = (uint64_t)(uintptr_t)buffers[slot],
                                     .aio_nbytes = load->block,
                                     .aio_offset = (int64_t)(place * load->block)};
      batch[count++] = &requests[slot];
    }
    if (count > 0 && syscall(SYS_io_submit, context, count, batch) != count) die("io_submit");
    flying += (unsigned)count;
    struct io_event events[kMaxDepth];
    long ready = syscall(SYS_io_getevents, context, 1L, (long)kMaxDepth, events, NULL);
    if (ready < 0) die("io_getevents");
    for (long i = 0; i < ready; i++) {
      if (events[i].res != (int64_t)load->block) {
        errno = events[i].res < 0 ? (int)-events[i].res : EIO;
        die(load->name);
      }
      idle[idleCount++] = (unsigned)events[i].data;
    }
    flying -= (unsigned)ready;
    done += (uint64_t)ready;
    took = now() - begin;
    stopping = took >= seconds;
  }
  if (load->write && fsync(disk) != 0) die("fsync");
  took = now() - begin;
  say("disk %s iops=%.0f mib=%.1f", load->name, (double)done / took,
      (double)done * (double)load->block / took / (double)(1 << 20));
  for (unsigned i = 0; i < load->depth; i++) free(buffers[i]);
  syscall(SYS_io_destroy, context);
}

void measureDisk(void) {
  int disk = open("/dev/vda", O_RDWR | O_DIRECT | O_CLOEXEC);
  if (disk < 0) die("/dev/vda");
  uint64_t size = 0;
  if (ioctl(disk, BLKGETSIZE64, &size) != 0) die("BLKGETSIZE64");
  double seconds = (double)numberOption("lab.seconds", 2);
  for (size_t i = 0; i < sizeof kWorkloads / sizeof *kWorkloads; i++) measure(disk, size, &kWorkloads[i], seconds);
  close(disk);
}
