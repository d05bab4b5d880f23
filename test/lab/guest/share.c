// Shared folders (virtiofs): reads what the host wrote in a share, writes to it, tries to write to a read-only one.
#define _GNU_SOURCE
#include "guest.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

static void mountShare(const char *tag, const char *where) {
  mkdir(where, 0755);
  if (mount(tag, where, "virtiofs", 0, NULL) != 0) die(tag);
}

// Says what the file holds, up to the end of its first line.
static void tellFile(const char *path) {
  char text[64];
  int file = open(path, O_RDONLY | O_CLOEXEC);
  ssize_t length = file < 0 ? -1 : read(file, text, sizeof text - 1);
  if (length < 0) die(path);
  close(file);
  text[length] = '\0';
  text[strcspn(text, "\n")] = '\0';
  say("%s says %s", path, text);
}

bool useShares(void) {
  mountShare("share0", "/share");
  mountShare("share1", "/read-only");
  tellFile("/share/from-host");
  tellFile("/read-only/from-host");
  // What the guest may do with its own mount must not matter.
  if (open("/read-only/from-guest", O_WRONLY | O_CREAT | O_CLOEXEC, 0644) >= 0) die("the read-only share is writable");
  say("read-only: %s", strerror(errno));
  bool again = access("/share/from-guest", F_OK) == 0;
  int file = open("/share/from-guest", O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (file < 0) die("/share/from-guest");
  if (dprintf(file, "of the guest\n") < 0 || fsync(file) != 0 || close(file) != 0) die("writing to the share");
  if (umount("/share") != 0 || umount("/read-only") != 0) die("umount");
  return again;
}
