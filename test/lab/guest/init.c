// The first process of a guest that the lab boots: says that user space is reached, loads modules, describes the machine
// it finds itself in, does the task named by `lab.task=` on the kernel command line, powers off.
#define _GNU_SOURCE
#include "guest.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/input.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { kLine = 512, kDeviceTries = 500, kDevicePauseMs = 10, kMaxInputs = 8 };

void say(const char *format, ...) {
  char line[kLine] = "tshyve-lab: ";
  size_t length = strlen(line);
  va_list arguments;
  va_start(arguments, format);
  int written = vsnprintf(line + length, sizeof line - length - 1, format, arguments);
  va_end(arguments);
  if (written > 0) length += (size_t)written < sizeof line - length - 1 ? (size_t)written : sizeof line - length - 2;
  line[length++] = '\n';
  if (write(STDOUT_FILENO, line, length) < 0) return;
}

_Noreturn static void powerOff(int how) {
  sync();
  reboot(how);
  for (;;) pause();
}

_Noreturn void die(const char *what) {
  say("failed: %s: %s", what, strerror(errno));
  powerOff(RB_POWER_OFF);
}

const char *option(const char *name, const char *otherwise) {
  static char line[4096];
  if (line[0] == '\0') {
    int file = open("/proc/cmdline", O_RDONLY | O_CLOEXEC);
    if (file < 0 || read(file, line, sizeof line - 1) < 0) die("/proc/cmdline");
    close(file);
    for (char *c = line; *c != '\0'; c++)
      if (*c == '\n') *c = ' ';
  }
  size_t length = strlen(name);
  for (const char *word = line; word != NULL; word = strchr(word, ' ')) {
    while (*word == ' ') word++;
    if (strncmp(word, name, length) == 0 && word[length] == '=') {
      char *value = strndup(word + length + 1, strcspn(word + length + 1, " "));
      return value != NULL ? value : otherwise;
    }
  }
  return otherwise;
}

unsigned long numberOption(const char *name, unsigned long otherwise) {
  const char *value = option(name, NULL);
  return value != NULL ? strtoul(value, NULL, 0) : otherwise;
}

double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void mountSystem(const char *type, const char *where) {
  mkdir(where, 0755);
  if (mount(type, where, type, 0, NULL) != 0) die(where);
}

static void loadModules(void) {
  FILE *order = fopen("/modules/order", "re");
  if (order == NULL) die("/modules/order");
  char name[256], path[512];
  while (fgets(name, sizeof name, order) != NULL) {
    name[strcspn(name, "\n")] = '\0';
    snprintf(path, sizeof path, "/modules/%s", name);
    int module = open(path, O_RDONLY | O_CLOEXEC);
    if (module < 0) die(path);
    // Debian compresses modules in newer kernels; the kernel unpacks them itself.
    int flags = strstr(name, ".xz") != NULL || strstr(name, ".zst") != NULL ? 4 /* MODULE_INIT_COMPRESSED_FILE */ : 0;
    if (syscall(SYS_finit_module, module, "", flags) != 0 && errno != EEXIST && errno != ENODEV)
      say("module %s: %s", name, strerror(errno));
    close(module);
  }
  fclose(order);
}

// First line of a small file, or "".
static const char *lineOf(char *buffer, size_t size, const char *folder, const char *name) {
  char path[512];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  buffer[0] = '\0';
  int file = open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0) return buffer;
  ssize_t length = read(file, buffer, size - 1);
  buffer[length > 0 ? length : 0] = '\0';
  buffer[strcspn(buffer, "\n")] = '\0';
  close(file);
  return buffer;
}

// Calls `each` with the path and name of every entry of a folder that has one.
static void forEach(const char *folder, void (*each)(const char *path, const char *name)) {
  DIR *entries = opendir(folder);
  if (entries == NULL) return;
  for (struct dirent *entry; (entry = readdir(entries)) != NULL;) {
    if (entry->d_name[0] == '.') continue;
    char path[512];
    snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
    each(path, entry->d_name);
  }
  closedir(entries);
}

static void describePci(const char *path, const char *name) {
  char vendor[32], device[32], link[256] = "", driver[512];
  snprintf(driver, sizeof driver, "%s/driver", path);
  ssize_t length = readlink(driver, link, sizeof link - 1);
  link[length > 0 ? length : 0] = '\0';
  const char *base = strrchr(link, '/');
  say("pci %s %s:%s %s", name, lineOf(vendor, sizeof vendor, path, "vendor") + 2,
      lineOf(device, sizeof device, path, "device") + 2, base != NULL ? base + 1 : "-");
}

static void describeBlock(const char *path, const char *name) {
  char sectors[32], serial[64], readOnly[8];
  lineOf(sectors, sizeof sectors, path, "size");
  say("block %s bytes=%llu ro=%s serial=%s", name, strtoull(sectors, NULL, 10) * 512ULL,
      lineOf(readOnly, sizeof readOnly, path, "ro"), lineOf(serial, sizeof serial, path, "serial"));
}

static void describeNet(const char *path, const char *name) {
  char address[32];
  if (strcmp(name, "lo") != 0) say("net %s %s", name, lineOf(address, sizeof address, path, "address"));
}

static void describeMachine(void) {
  struct sysinfo memory;
  if (sysinfo(&memory) != 0) die("sysinfo");
  say("cpus=%ld memory=%llu KiB", sysconf(_SC_NPROCESSORS_ONLN),
      (unsigned long long)memory.totalram * memory.mem_unit / 1024);
  char text[128];
  say("clocksource=%s", lineOf(text, sizeof text, "/sys/devices/system/clocksource/clocksource0", "current_clocksource"));
  forEach("/sys/bus/pci/devices", describePci);
  forEach("/sys/block", describeBlock);
  forEach("/sys/class/net", describeNet);
}

// Touches every page that is free, so that memory which is promised but not there shows up.
static void touchMemory(void) {
  struct sysinfo memory;
  if (sysinfo(&memory) != 0) die("sysinfo");
  size_t left = (size_t)(memory.freeram * memory.mem_unit / 100 * 80);
  const size_t step = 64UL << 20;
  size_t pages = 0;
  uint64_t **blocks = calloc(left / step + 1, sizeof *blocks);
  if (blocks == NULL) die("calloc");
  size_t count = left / step;
  for (size_t block = 0; block < count; block++) {
    blocks[block] = malloc(step);
    if (blocks[block] == NULL) die("malloc");
    for (size_t at = 0; at < step / sizeof(uint64_t); at += 4096 / sizeof(uint64_t)) blocks[block][at] = ++pages;
  }
  size_t seen = 0;
  for (size_t block = 0; block < count; block++)
    for (size_t at = 0; at < step / sizeof(uint64_t); at += 4096 / sizeof(uint64_t))
      if (blocks[block][at] != ++seen) die("memory does not keep what was written");
  say("touched=%zu MiB", pages / 256);
}

static void runShell(void) {
  pid_t child = fork();
  if (child == 0) {
    setsid();
    int terminal = open("/dev/ttyS0", O_RDWR | O_CLOEXEC);
    if (terminal < 0) terminal = open("/dev/console", O_RDWR | O_CLOEXEC);
    if (terminal < 0) die("no console");
    ioctl(terminal, TIOCSCTTY, 1);
    for (int fd = 0; fd < 3; fd++) dup2(terminal, fd);
    setenv("PS1", "lab# ", 1);
    execl("/bin/busybox", "sh", "-i", (char *)NULL);
    die("/bin/busybox");
  }
  for (pid_t gone; (gone = wait(NULL)) != child;)
    if (gone < 0 && errno != EINTR) break;
}

static struct pollfd inputs[kMaxInputs];
static nfds_t inputCount;
static void openInput(const char *path, const char *name) {
  if (strncmp(name, "event", 5) != 0 || inputCount == kMaxInputs) return;
  int file = open(path, O_RDONLY | O_CLOEXEC);
  if (file >= 0) inputs[inputCount++] = (struct pollfd){.fd = file, .events = POLLIN};
}

static void waitForPowerButton(void) {
  forEach("/dev/input", openInput);
  say("waiting for the power button, %lu inputs", (unsigned long)inputCount);
  for (;;) {
    if (poll(inputs, inputCount, -1) < 0 && errno != EINTR) die("poll");
    for (nfds_t i = 0; i < inputCount; i++) {
      struct input_event event;
      if ((inputs[i].revents & POLLIN) == 0 || read(inputs[i].fd, &event, sizeof event) != sizeof event) continue;
      if (event.type == EV_KEY && event.code == KEY_POWER && event.value == 1) {
        say("power button");
        return;
      }
    }
  }
}

// The disk appears a moment after its driver.
static void waitForDisk(void) {
  for (int tries = 0; access("/dev/vda", F_OK) != 0; tries++) {
    if (tries == kDeviceTries) die("/dev/vda");
    usleep(kDevicePauseMs * 1000);
  }
}

int main(void) {
  say("user space");
  mountSystem("proc", "/proc");
  mountSystem("sysfs", "/sys");
  mountSystem("devtmpfs", "/dev");
  loadModules();
  const char *task = option("lab.task", "report");
  say("task %s", task);
  if (strcmp(task, "boot") == 0) powerOff(RB_POWER_OFF);
  describeMachine();
  if (strcmp(task, "shell") == 0) runShell();
  else if (strcmp(task, "memory") == 0) touchMemory();
  else if (strcmp(task, "button") == 0) waitForPowerButton();
  else if (strcmp(task, "reboot") == 0) powerOff(RB_AUTOBOOT);
  else if (strcmp(task, "panic") == 0) return 1;
  else if (strcmp(task, "write") == 0) waitForDisk(), writeRecords();
  else if (strcmp(task, "disk") == 0) waitForDisk(), measureDisk();
  else if (strcmp(task, "stream") == 0) configureNetwork(), measureStream();
  else if (strcmp(task, "vsock") == 0) useVsock();
  else if (strcmp(task, "shares") == 0 && !useShares()) powerOff(RB_AUTOBOOT);
  say("done");
  powerOff(RB_POWER_OFF);
}
