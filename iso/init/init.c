// The first process of the guest: finds the root file system, puts a writable layer over it, mounts the data disk of
// earlier boots and hands over to systemd. It is C, not shell, because each process started here costs boot time.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum {
  kPathMax = 512,
  // The ISO's full initrd begins with a small archive; its squashfs follows within this many bytes.
  kSquashfsSearchEnd = 64 << 20,
  kSquashfsAlign = 4096,
  kRootTries = 1000,
  kRootPauseMs = 10,
  // ISO 9660: the identifier "CD001" of the primary volume descriptor (ECMA-119 8.4.2).
  kIsoMagicOffset = 16 * 2048 + 1,
  // ext4 superblock (Documentation/filesystems/ext4/super.rst): offsets from the start of the device.
  kExt4Magic = 1024 + 0x38,
  kExt4State = 1024 + 0x3a,
  kExt4Label = 1024 + 0x78,
  kExt4StateError = 2,
};

static const char kDataLabel[16] = "boot2docker-data";
static const char kPersistent[] = "/new/usr/lib/tshyve/persistent-directories.txt";

static void say(const char *what, const char *detail) {
  int log = open("/dev/kmsg", O_WRONLY | O_CLOEXEC);
  if (log < 0) return;
  dprintf(log, "<5>tshyve-init: %s %s\n", what, detail);
  close(log);
}

// With the clock as the kernel has read it: the host sees at once whether it must be set.
static void event(const char *name) {
  int console = open("/dev/console", O_WRONLY | O_NOCTTY | O_CLOEXEC);
  if (console < 0) return;
  dprintf(console, "\ntshyve-event: %s %lld\n", name, (long long)time(NULL));
  close(console);
}

// Nothing sensible is left to do: the console says why, and the host gives up after its boot timeout.
static void die(const char *what) {
  say("fatal:", what);
  int console = open("/dev/console", O_WRONLY | O_NOCTTY | O_CLOEXEC);
  if (console >= 0) dprintf(console, "tshyve-init: %s: %s\n", what, strerror(errno));
  for (;;) pause();
}

static void mountOrDie(const char *source, const char *target, const char *type, unsigned long flags,
                       const char *options) {
  if (mount(source, target, type, flags, options) != 0) die(target);
}

// Loads the modules that /modules/order lists, one file name a line.
static void loadModules(void) {
  FILE *order = fopen("/modules/order", "re");
  if (order == NULL) return;
  char name[256];
  while (fgets(name, sizeof name, order) != NULL) {
    name[strcspn(name, "\n")] = '\0';
    char path[kPathMax];
    snprintf(path, sizeof path, "/modules/%s", name);
    int module = open(path, O_RDONLY | O_CLOEXEC);
    if (module < 0) continue;
    if (syscall(SYS_finit_module, module, "", 0) != 0 && errno != EEXIST && errno != ENODEV) say("cannot load", name);
    close(module);
    unlink(path);
  }
  fclose(order);
}

static bool hasBytes(const char *path, off_t offset, const void *wanted, size_t length) {
  char found[16];
  int file = open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0) return false;
  bool same = length <= sizeof found && pread(file, found, length, offset) == (ssize_t)length &&
              memcmp(found, wanted, length) == 0;
  close(file);
  return same;
}

// Makes /dev/loop0 show the squashfs inside a file, read-only.
static bool attachSquashfs(const char *path) {
  int file = open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0) return false;
  off_t offset = -1;
  for (off_t at = 0; at < kSquashfsSearchEnd; at += kSquashfsAlign) {
    char magic[4];
    if (pread(file, magic, sizeof magic, at) != (ssize_t)sizeof magic) break;
    if (memcmp(magic, "hsqs", sizeof magic) == 0) {
      offset = at;
      break;
    }
  }
  bool attached = false;
  int loop = offset < 0 ? -1 : open("/dev/loop0", O_RDWR | O_CLOEXEC);
  if (loop >= 0) {
    struct loop_config config;
    memset(&config, 0, sizeof config);
    config.fd = (uint32_t)file;
    config.info.lo_flags = LO_FLAGS_READ_ONLY;
    config.info.lo_offset = (uint64_t)offset;
    attached = ioctl(loop, LOOP_CONFIGURE, &config) == 0;
    close(loop);
  }
  close(file);
  return attached;
}

// Looks once at all block devices. Returns the device that holds the root, or NULL.
static const char *findRoot(void) {
  static char device[kPathMax];
  const char *found = NULL;
  DIR *devices = opendir("/sys/block");
  if (devices == NULL) return NULL;
  for (struct dirent *entry; found == NULL && (entry = readdir(devices)) != NULL;) {
    if (entry->d_name[0] == '.' || strncmp(entry->d_name, "loop", 4) == 0) continue;
    snprintf(device, sizeof device, "/dev/%s", entry->d_name);
    if (hasBytes(device, 0, "hsqs", 4)) {
      found = device;
    } else if (hasBytes(device, kIsoMagicOffset, "CD001", 5) && mount(device, "/iso", "iso9660", MS_RDONLY, "") == 0) {
      if (attachSquashfs("/iso/boot/initrd"))
        found = "/dev/loop0";
      else
        umount("/iso");
    }
  }
  closedir(devices);
  return found;
}

static const char *waitForRoot(void) {
  if (access("/root.squashfs", R_OK) == 0 && attachSquashfs("/root.squashfs")) {
    unlink("/root.squashfs");
    return "/dev/loop0";
  }
  for (int attempt = 0; attempt < kRootTries; attempt++) {
    const char *root = findRoot();
    if (root != NULL) return root;
    // Disks appear asynchronously and there is no udev yet to tell.
    struct timespec interval = {.tv_sec = 0, .tv_nsec = kRootPauseMs * 1000000L};
    nanosleep(&interval, NULL);
  }
  errno = ENODEV;
  die("no disk with the root file system");
  return NULL;
}

// Copies the value of `key=` on the kernel command line; false when it is absent.
static bool commandLineValue(const char *key, char *value, size_t size) {
  char line[4096];
  int file = open("/proc/cmdline", O_RDONLY | O_CLOEXEC);
  ssize_t length = file < 0 ? -1 : read(file, line, sizeof line - 1);
  if (file >= 0) close(file);
  if (length < 0) return false;
  line[length] = '\0';
  size_t keyLength = strlen(key);
  for (char *word = strtok(line, " \n"); word != NULL; word = strtok(NULL, " \n")) {
    if (strncmp(word, key, keyLength) != 0 || word[keyLength] != '=') continue;
    snprintf(value, size, "%s", word + keyLength + 1);
    return true;
  }
  return false;
}

static void writeFile(const char *path, const char *text) {
  int file = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (file < 0) return;
  dprintf(file, "%s\n", text);
  close(file);
}

static bool isHostName(const char *name) {
  return name[0] != '\0' && strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-") == strlen(name);
}

static void setHostName(void) {
  char name[256] = "";
  int stored = open("/new/var/lib/boot2docker/etc/hostname", O_RDONLY | O_CLOEXEC);
  if (stored >= 0) {
    ssize_t length = read(stored, name, sizeof name - 1);
    name[length > 0 ? length : 0] = '\0';
    name[strcspn(name, "\n")] = '\0';
    close(stored);
  }
  if (!isHostName(name) && (!commandLineValue("tshyve.hostname", name, sizeof name) || !isHostName(name)))
    strcpy(name, "tshyve");
  sethostname(name, strlen(name));
  writeFile("/new/etc/hostname", name);
  char hosts[600];
  snprintf(hosts, sizeof hosts, "127.0.0.1 localhost\n::1 localhost ip6-localhost\n127.0.1.1 %s", name);
  writeFile("/new/etc/hosts", hosts);
}

// docker-machine provisions a host that calls itself boot2docker, minikube one that calls itself buildroot.
static void setIdentity(void) {
  char identity[32];
  const char *name = commandLineValue("tshyve.identity", identity, sizeof identity) && strcmp(identity, "buildroot") == 0
                         ? "/usr/lib/tshyve/os-release.buildroot"
                         : "/usr/lib/tshyve/os-release.boot2docker";
  unlink("/new/etc/os-release");
  if (symlink(name, "/new/etc/os-release") != 0) say("cannot write", "/etc/os-release");
}

// Makes a folder and those above it. `path` is changed for the time of the call.
static void makeFolders(char *path) {
  for (char *slash = strchr(path + 1, '/'); slash != NULL; slash = strchr(slash + 1, '/')) {
    *slash = '\0';
    mkdir(path, 0755);
    *slash = '/';
  }
  mkdir(path, 0755);
}

static void bindPersistentDirectories(void) {
  FILE *list = fopen(kPersistent, "re");
  if (list == NULL) return;
  char name[256];
  while (fgets(name, sizeof name, list) != NULL) {
    name[strcspn(name, "\n")] = '\0';
    char from[kPathMax];
    char to[kPathMax];
    snprintf(from, sizeof from, "/new/mnt/data/%s", name);
    snprintf(to, sizeof to, "/new/%s", name);
    // A data disk that an older image made lacks what is new in the list.
    if (access(from, F_OK) != 0) makeFolders(from);
    if (mount(from, to, NULL, MS_BIND, NULL) != 0) say("cannot bind", to);
  }
  fclose(list);
}

// Mounts the data disk of earlier boots. One that is damaged or was never finished is left to tshyve-disk.service.
static void mountData(void) {
  DIR *devices = opendir("/sys/class/block");
  if (devices == NULL) return;
  for (struct dirent *entry; (entry = readdir(devices)) != NULL;) {
    char device[kPathMax];
    if (entry->d_name[0] == '.' || strncmp(entry->d_name, "loop", 4) == 0) continue;
    snprintf(device, sizeof device, "/dev/%s", entry->d_name);
    if (!hasBytes(device, kExt4Magic, "\x53\xef", 2) || !hasBytes(device, kExt4Label, kDataLabel, sizeof kDataLabel))
      continue;
    char state = 0;
    int disk = open(device, O_RDONLY | O_CLOEXEC);
    if (disk >= 0) {
      if (pread(disk, &state, 1, kExt4State) != 1) state = kExt4StateError;
      close(disk);
    }
    if ((state & kExt4StateError) != 0) break;
    if (mount(device, "/new/mnt/data", "ext4", MS_NOATIME, "discard") != 0) break;
    if (access("/new/mnt/data/.tshyve", F_OK) != 0) {
      umount("/new/mnt/data");
      break;
    }
    bindPersistentDirectories();
    // With a profile somebody wants Docker on this machine: do not wait for the first connection.
    if (access("/new/var/lib/boot2docker/profile", F_OK) == 0 &&
        symlink("/lib/systemd/system/docker.service", "/new/etc/systemd/system/multi-user.target.wants/docker.service") !=
            0)
      say("cannot enable", "docker.service");
    break;
  }
  closedir(devices);
}

int main(int argc, char **argv) {
  (void)argc;
  static const char *const directories[] = {"/dev", "/proc", "/sys", "/lower", "/rw", "/new", "/iso"};
  for (size_t i = 0; i < sizeof directories / sizeof *directories; i++) mkdir(directories[i], 0755);
  mountOrDie("dev", "/dev", "devtmpfs", MS_NOSUID, "mode=755");
  mountOrDie("proc", "/proc", "proc", 0, "");
  mountOrDie("sys", "/sys", "sysfs", 0, "");
  event("init");
  loadModules();
  mountOrDie(waitForRoot(), "/lower", "squashfs", MS_RDONLY, "");
  mountOrDie("rw", "/rw", "tmpfs", 0, "size=75%,mode=755");
  mkdir("/rw/upper", 0755);
  mkdir("/rw/work", 0755);
  mountOrDie("root", "/new", "overlay", 0, "lowerdir=/lower,upperdir=/rw/upper,workdir=/rw/work");
  mountData();
  setHostName();
  setIdentity();
  mountOrDie("/dev", "/new/dev", NULL, MS_MOVE, NULL);
  mountOrDie("/proc", "/new/proc", NULL, MS_MOVE, NULL);
  mountOrDie("/sys", "/new/sys", NULL, MS_MOVE, NULL);
  unlink("/init");
  if (chdir("/new") != 0 || mount(".", "/", NULL, MS_MOVE, NULL) != 0 || chroot(".") != 0 || chdir("/") != 0)
    die("cannot enter the root file system");
  event("userspace");
  argv[0] = (char[]){"/sbin/init"};
  execv("/sbin/init", argv);
  die("cannot start systemd");
}
