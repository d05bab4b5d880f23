// Waits for the power button of a machine that is described by a device tree and runs /usr/lib/tshyve/power-button.
// QEMU's virt machine and Virtualization.framework have a gpio-keys node there with a key of code KEY_POWER; Debian's
// cloud kernel has the GPIO controller (PL061), but not the driver for such keys.
// Sources: Documentation/devicetree/bindings/input/gpio-keys.yaml, Documentation/userspace-api/gpio/chardev.rst.
#define _GNU_SOURCE
#include <dirent.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/gpio.h>
#include <linux/input-event-codes.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum {
  kPathMax = 512,
  // Third cell of a GPIO specifier (Documentation/devicetree/bindings/gpio/gpio.txt).
  kActiveLow = 1,
};

static const char kKeys[] = "/proc/device-tree/gpio-keys";
static const char kChips[] = "/sys/bus/gpio/devices";
static const char kAction[] = "/usr/lib/tshyve/power-button";

struct Line {
  uint32_t controller;
  uint32_t offset;
  uint32_t flags;
};

// Reads `count` cells of a property; false when it is shorter.
static bool readCells(const char *path, uint32_t *cells, size_t count) {
  int file = open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0) return false;
  bool whole = read(file, cells, count * sizeof *cells) == (ssize_t)(count * sizeof *cells);
  close(file);
  for (size_t i = 0; whole && i < count; i++) cells[i] = be32toh(cells[i]);
  return whole;
}

static bool findKey(struct Line *line) {
  bool found = false;
  DIR *keys = opendir(kKeys);
  if (keys == NULL) return false;
  for (struct dirent *entry; !found && (entry = readdir(keys)) != NULL;) {
    if (entry->d_name[0] == '.') continue;
    char path[kPathMax];
    uint32_t code;
    uint32_t cells[3];
    snprintf(path, sizeof path, "%s/%s/linux,code", kKeys, entry->d_name);
    if (!readCells(path, &code, 1) || code != KEY_POWER) continue;
    snprintf(path, sizeof path, "%s/%s/gpios", kKeys, entry->d_name);
    if (!readCells(path, cells, 3)) continue;
    *line = (struct Line){.controller = cells[0], .offset = cells[1], .flags = cells[2]};
    found = true;
  }
  closedir(keys);
  return found;
}

// Opens the chip whose node in the device tree is referred to by `phandle`.
static int openChip(uint32_t phandle) {
  int chip = -1;
  DIR *chips = opendir(kChips);
  if (chips == NULL) return -1;
  for (struct dirent *entry; chip < 0 && (entry = readdir(chips)) != NULL;) {
    if (entry->d_name[0] == '.') continue;
    char path[kPathMax];
    uint32_t own;
    snprintf(path, sizeof path, "%s/%s/of_node/phandle", kChips, entry->d_name);
    if (!readCells(path, &own, 1) || own != phandle) continue;
    snprintf(path, sizeof path, "/dev/%s", entry->d_name);
    chip = open(path, O_RDONLY | O_CLOEXEC);
  }
  closedir(chips);
  return chip;
}

static int fail(const char *what) {
  fprintf(stderr, "power-key: %s: %s\n", what, strerror(errno));
  return 1;
}

int main(void) {
  struct Line line;
  if (!findKey(&line)) {
    fprintf(stderr, "power-key: %s names no power key\n", kKeys);
    return 0;
  }
  int chip = openChip(line.controller);
  if (chip < 0) return fail("cannot open the power key's GPIO chip");
  struct gpio_v2_line_request request;
  memset(&request, 0, sizeof request);
  request.offsets[0] = line.offset;
  request.num_lines = 1;
  strcpy(request.consumer, "power-key");
  request.config.flags = GPIO_V2_LINE_FLAG_INPUT | GPIO_V2_LINE_FLAG_EDGE_RISING;
  if ((line.flags & kActiveLow) != 0) request.config.flags |= GPIO_V2_LINE_FLAG_ACTIVE_LOW;
  if (ioctl(chip, GPIO_V2_GET_LINE_IOCTL, &request) != 0) return fail("cannot listen to the power key");
  struct gpio_v2_line_event event;
  while (read(request.fd, &event, sizeof event) == (ssize_t)sizeof event) {
    // Later presses find the guest on its way down.
    if (system(kAction) != 0) fprintf(stderr, "power-key: %s failed\n", kAction);
  }
  return fail("cannot read the power key");
}
