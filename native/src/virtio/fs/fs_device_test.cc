#include "virtio/fs/fs_device.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/fuse.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <thread>

#include "virtio/testing/guest_driver.h"

extern char** environ;

namespace tshyve::virtio {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;

class Folder {
 public:
  Folder() {
    std::string pattern = fs::temp_directory_path() / "tshyve-fs-XXXXXX";
    path_ = ::mkdtemp(pattern.data());
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  ~Folder() { fs::remove_all(path_); }
  [[nodiscard]] const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

// --- With the virtiofsd of this system ---

std::string daemonPath() {
  for (const char* path : {"/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd"}) {
    if (fs::exists(path)) return path;
  }
  return {};
}

/// A virtiofsd that shares a folder with one file in it.
class Daemon {
 public:
  explicit Daemon(const fs::path& folder) : socket_(folder / "socket") {
    fs::create_directories(folder / "shared");
    std::ofstream(folder / "shared" / "hello") << "from the host";
    const std::string log = folder / "log";
    const std::string source = "source=" + (folder / "shared").string();
    const std::string socketOption = "--socket-path=" + socket_;
    std::vector<std::string> arguments{daemonPath(), socketOption, "-o", source, "-o", "sandbox=chroot", "-f"};
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 1, log.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    posix_spawn_file_actions_adddup2(&actions, 1, 2);
    EXPECT_EQ(posix_spawn(&pid_, argv[0], &actions, nullptr, argv.data(), environ), 0);
    posix_spawn_file_actions_destroy(&actions);
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
    while (!fs::exists(socket_) && std::chrono::steady_clock::now() < deadline) {
      std::this_thread::sleep_for(milliseconds(5));
    }
    std::ifstream said(log);
    EXPECT_TRUE(fs::exists(socket_)) << "virtiofsd said: " << std::string(std::istreambuf_iterator<char>(said), {});
  }
  Daemon(const Daemon&) = delete;
  Daemon& operator=(const Daemon&) = delete;
  ~Daemon() { kill(); }
  void kill() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
    pid_ = -1;
    fs::remove(socket_);
  }
  [[nodiscard]] const std::string& socket() const { return socket_; }

 private:
  std::string socket_;
  pid_t pid_ = -1;
};

/// The guest's FUSE client, as far as it takes to read a file (linux/fuse.h).
class FuseClient {
 public:
  FuseClient(test::DeviceHarness& harness) : harness_(harness) {}

  /// Sends a request and waits for its answer. @return the answer's payload; nothing when none comes
  std::optional<std::vector<std::byte>> call(std::uint32_t opcode, std::uint64_t node,
                                             std::span<const std::byte> payload) {
    constexpr std::size_t kAnswer = 4096;
    fuse_in_header header{};
    header.len = static_cast<std::uint32_t>(sizeof header + payload.size());
    header.opcode = opcode;
    header.unique = ++unique_;
    header.nodeid = node;
    const std::uint64_t in = harness_.allocator.put(header);
    const std::uint64_t argument = harness_.allocator.put(payload);
    const std::uint64_t out = harness_.allocator.allocate(kAnswer);
    harness_.queue(1).offer({{in, sizeof header, false},
                             {argument, static_cast<std::uint32_t>(payload.size()), false},
                             {out, kAnswer, true}});
    harness_.signals.kicks.at(1).signal();
    pollfd poll{harness_.signals.interruptEvents.at(1).fd(), POLLIN, 0};
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
    std::optional<test::GuestQueue::Used> used;
    while (!(used = harness_.queue(1).takeUsed()) && std::chrono::steady_clock::now() < deadline) {
      ::poll(&poll, 1, 1000);
      harness_.signals.interruptEvents.at(1).drain();
    }
    if (!used) return std::nullopt;
    const auto answer = harness_.memory->read<fuse_out_header>(out);
    EXPECT_EQ(answer->error, 0);
    EXPECT_EQ(answer->unique, unique_);
    EXPECT_EQ(answer->len, used->written);
    std::vector<std::byte> result(answer->len - sizeof(fuse_out_header));
    EXPECT_TRUE(harness_.memory->readBytes(out + sizeof(fuse_out_header), result));
    return result;
  }

  template <typename Answer, typename Request>
  Answer call(std::uint32_t opcode, std::uint64_t node, const Request& request) {
    const auto bytes = call(opcode, node, std::as_bytes(std::span(&request, 1)));
    Answer answer{};
    EXPECT_TRUE(bytes);
    if (bytes) std::memcpy(&answer, bytes->data(), std::min(sizeof answer, bytes->size()));
    return answer;
  }

  void mount() {
    fuse_init_in init{};
    init.major = FUSE_KERNEL_VERSION;
    init.minor = 31;
    EXPECT_EQ(call<fuse_init_out>(FUSE_INIT, 0, init).major, std::uint32_t{FUSE_KERNEL_VERSION});
  }
  std::string readFile(const std::string& name) {
    const auto found = call(FUSE_LOOKUP, FUSE_ROOT_ID, std::as_bytes(std::span(name.c_str(), name.size() + 1)));
    if (!found || found->size() < sizeof(fuse_entry_out)) return "no such file";
    fuse_entry_out entry;
    std::memcpy(&entry, found->data(), sizeof entry);
    const auto opened = call<fuse_open_out>(FUSE_OPEN, entry.nodeid, fuse_open_in{});
    fuse_read_in read{};
    read.fh = opened.fh;
    read.size = 1024;
    const auto content = call(FUSE_READ, entry.nodeid, std::as_bytes(std::span(&read, 1)));
    return content ? std::string(reinterpret_cast<const char*>(content->data()), content->size()) : "no answer";
  }

 private:
  test::DeviceHarness& harness_;
  std::uint64_t unique_ = 0;
};

class FsWithDaemon : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_FALSE(daemonPath().empty()) << "virtiofsd is in the package qemu-system-common or virtiofsd";
    if (::geteuid() != 0) GTEST_SKIP() << "virtiofsd of QEMU runs as root only";
    daemon.emplace(folder.path());
    auto made = FsDevice::create(*loop, "share", daemon->socket());
    ASSERT_TRUE(made) << made.error().message;
    device = std::move(*made);
    harness.emplace(*device, 16 << 20, 128, GuestMemory::Backing::kShared);
  }

  Folder folder;
  std::optional<Daemon> daemon;
  std::unique_ptr<EventLoop> loop = std::move(EventLoop::create("fs").value());
  std::unique_ptr<FsDevice> device;
  std::optional<test::DeviceHarness> harness;
};

TEST_F(FsWithDaemon, TheGuestReadsAFileOfTheHost) {
  const auto activated = harness->activate();
  ASSERT_TRUE(activated) << activated.error().message;
  FuseClient client(*harness);
  client.mount();
  EXPECT_EQ(client.readFile("hello"), "from the host");
}

TEST_F(FsWithDaemon, GoesOnAfterAPause) {
  ASSERT_TRUE(harness->activate());
  FuseClient client(*harness);
  client.mount();
  device->pause();
  const QueuePosition position = harness->deviceQueue(1).position();
  EXPECT_EQ(position.nextAvailable, 1);
  EXPECT_EQ(position.nextUsed, 1);
  device->resume();
  EXPECT_FALSE(harness->signals.broken) << *harness->signals.broken;
  EXPECT_EQ(client.readFile("hello"), "from the host");
}

TEST_F(FsWithDaemon, ADriverMayResetAndStartAgain) {
  ASSERT_TRUE(harness->activate());
  FuseClient(*harness).mount();
  ASSERT_TRUE(harness->activate());
  FuseClient client(*harness);
  client.mount();
  EXPECT_EQ(client.readFile("hello"), "from the host");
}

TEST_F(FsWithDaemon, SurvivesTheLossOfItsDaemon) {
  ASSERT_TRUE(harness->activate());
  FuseClient(*harness).mount();
  daemon->kill();
  loop->runOnce(std::chrono::seconds(5));
  ASSERT_TRUE(harness->signals.broken);
  EXPECT_NE(harness->signals.broken->find("virtiofsd at " + daemon->socket() + " has gone"), std::string::npos);
  // Nobody there: the driver's next attempt fails, with the reason.
  const auto refused = harness->activate();
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().message.find("cannot connect to"), std::string::npos) << refused.error().message;
  daemon.emplace(folder.path());
  ASSERT_TRUE(harness->activate());
  FuseClient client(*harness);
  client.mount();
  EXPECT_EQ(client.readFile("hello"), "from the host");
}

// --- With a peer that means harm ---

struct Message {
  std::uint32_t request, flags, size;
  std::vector<std::byte> payload;
};

/// Answers each request by what `answer` returns; ends the connection when that is nothing.
class Peer {
 public:
  using Answer = std::function<std::optional<std::vector<std::byte>>(const Message&)>;
  explicit Peer(Answer answer) {
    int pair[2];
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    ours_.reset(pair[0]);
    thread_ = std::thread([fd = pair[1], answer = std::move(answer)] { serve(UniqueFd(fd), answer); });
  }
  Peer(const Peer&) = delete;
  Peer& operator=(const Peer&) = delete;
  ~Peer() {
    ours_.reset();
    thread_.join();
  }
  UniqueFd take() { return std::move(ours_); }

  static std::vector<std::byte> reply(const Message& message, std::span<const std::byte> payload,
                                      std::uint32_t flags = 5) {
    const std::uint32_t header[] = {message.request, flags, static_cast<std::uint32_t>(payload.size())};
    std::vector<std::byte> bytes(sizeof header + payload.size());
    std::memcpy(bytes.data(), header, sizeof header);
    if (!payload.empty()) std::memcpy(bytes.data() + sizeof header, payload.data(), payload.size());
    return bytes;
  }
  static std::vector<std::byte> number(const Message& message, std::uint64_t value) {
    return reply(message, std::as_bytes(std::span(&value, 1)));
  }
  /// What a decent peer says: virtio 1 with protocol features and confirmations.
  static std::vector<std::byte> decent(const Message& message) {
    switch (message.request) {
      case 1:
        return number(message, kFeatureVersion1 | kFeatureEventIndex | 1ULL << 30 | 1ULL << 7);
      case 15:
        return number(message, 0xffff);
      case 11:
        return reply(message, message.payload);
      default:
        return (message.flags & 8) != 0 ? number(message, 0) : std::vector<std::byte>();
    }
  }

 private:
  static bool receive(const UniqueFd& fd, std::span<std::byte> out) {
    return out.empty() || ::recv(fd.get(), out.data(), out.size(), MSG_WAITALL) == static_cast<ssize_t>(out.size());
  }
  static void serve(const UniqueFd& fd, const Answer& answer) {
    for (;;) {
      std::uint32_t header[3];
      if (!receive(fd, std::as_writable_bytes(std::span(header)))) return;
      Message message{header[0], header[1], header[2], std::vector<std::byte>(header[2])};
      if (!receive(fd, message.payload)) return;
      const auto bytes = answer(message);
      if (!bytes) return;
      (void)::send(fd.get(), bytes->data(), bytes->size(), MSG_NOSIGNAL);
    }
  }
  UniqueFd ours_;
  std::thread thread_;
};

struct Harm {
  std::string name;
  std::uint32_t request;
  std::function<std::optional<std::vector<std::byte>>(const Message&)> answer;
  std::string error;
};

class FsWithBadPeer : public testing::TestWithParam<Harm> {};
INSTANTIATE_TEST_SUITE_P(
    Answers, FsWithBadPeer,
    testing::Values(
        Harm{"HangsUp", 1, [](const Message&) { return std::nullopt; }, "closed the connection"},
        Harm{"OldVirtio", 1, [](const Message& m) { return Peer::number(m, 0); }, "virtio 1"},
        Harm{"WrongSize", 1, [](const Message& m) { return Peer::reply(m, std::vector<std::byte>(4)); }, "protocol"},
        Harm{"HugeSize", 15,
             [](const Message& m) {
               auto bytes = Peer::number(m, 0);
               std::memset(bytes.data() + 8, 0xff, 4);
               return bytes;
             },
             "protocol"},
        Harm{"NotAReply", 1, [](const Message& m) { return Peer::reply(m, std::vector<std::byte>(8), 1); }, "protocol"},
        Harm{"OtherVersion", 1, [](const Message& m) { return Peer::reply(m, std::vector<std::byte>(8), 6); },
             "protocol"},
        Harm{"OtherRequest", 15,
             [](const Message& m) {
               Message other = m;
               other.request = 1;
               return Peer::number(other, 0);
             },
             "protocol"},
        Harm{"RefusesMemory", 5, [](const Message& m) { return Peer::number(m, 1); }, "refuses request 5"},
        Harm{"HangsUpInTheMiddle", 9, [](const Message&) { return std::nullopt; }, "closed the connection"}),
    [](const auto& test) { return test.param.name; });

TEST_P(FsWithBadPeer, FailsWithTheReason) {
  Peer peer([&](const Message& message) {
    return message.request == GetParam().request ? GetParam().answer(message) : Peer::decent(message);
  });
  auto loop = std::move(EventLoop::create("fs").value());
  auto device = FsDevice::create(
      *loop, "share", [&]() -> Result<UniqueFd> { return peer.take(); }, "the peer");
  std::string error;
  if (device) {
    test::DeviceHarness harness(**device, 1 << 20, 16, GuestMemory::Backing::kShared);
    const auto activated = harness.activate();
    if (!activated) error = activated.error().message;
  } else {
    error = device.error().message;
  }
  EXPECT_NE(error.find(GetParam().error), std::string::npos) << error;
}

TEST(FsDevice, APeerThatLiesAboutAPositionIsLeft) {
  Peer peer([](const Message& message) -> std::optional<std::vector<std::byte>> {
    if (message.request != 11) return Peer::decent(message);
    const std::uint32_t state[] = {0, 0x12345};
    return Peer::reply(message, std::as_bytes(std::span(state)));
  });
  auto loop = std::move(EventLoop::create("fs").value());
  auto device = FsDevice::create(
      *loop, "share", [&]() -> Result<UniqueFd> { return peer.take(); }, "the peer");
  ASSERT_TRUE(device) << device.error().message;
  test::DeviceHarness harness(**device, 1 << 20, 16, GuestMemory::Backing::kShared);
  ASSERT_TRUE(harness.activate());
  EXPECT_EQ((*device)->features() & kFeatureEventIndex, kFeatureEventIndex);
  EXPECT_EQ((*device)->features() & (1ULL << 30 | 1ULL << 7), 0U) << "features of vhost-user are not the guest's";
  (*device)->pause();
  EXPECT_TRUE(harness.signals.broken);
  EXPECT_EQ(harness.deviceQueue(0).position().nextAvailable, 0);
}

TEST(FsDevice, NeedsMemoryThatCanBeShared) {
  Peer peer([](const Message& message) { return std::optional(Peer::decent(message)); });
  auto loop = std::move(EventLoop::create("fs").value());
  auto device = FsDevice::create(
      *loop, "share", [&]() -> Result<UniqueFd> { return peer.take(); }, "the peer");
  ASSERT_TRUE(device);
  test::DeviceHarness harness(**device, 1 << 20, 16, GuestMemory::Backing::kPrivate);
  const auto refused = harness.activate();
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kInvalidArgument);
}

TEST(FsDevice, SaysItsTag) {
  Peer peer([](const Message& message) { return std::optional(Peer::decent(message)); });
  auto loop = std::move(EventLoop::create("fs").value());
  const std::string tag(36, 't');
  auto device = FsDevice::create(
      *loop, tag, [&]() -> Result<UniqueFd> { return peer.take(); }, "the peer");
  ASSERT_TRUE(device);
  std::array<char, 48> config;
  (*device)->readConfig(0, std::as_writable_bytes(std::span(config)));
  EXPECT_EQ(std::string(config.data(), 36), tag);
  EXPECT_EQ(config[36], 1) << "one request queue";
  EXPECT_EQ(config[40], 0);
  std::uint64_t beyond = 1;
  (*device)->readConfig(UINT32_MAX - 3, std::as_writable_bytes(std::span(&beyond, 1)));
  EXPECT_EQ(beyond, 0U);

  StateWriter writer;
  (*device)->save(writer);
  StateReader same(writer.data());
  EXPECT_TRUE((*device)->restore(same));
  StateWriter foreign;
  foreign.section("fs", 1);
  foreign.putString("other");
  StateReader reader(foreign.data());
  EXPECT_FALSE((*device)->restore(reader));
}

TEST(FsDevice, RefusesTagsAndSocketsThatCannotBe) {
  auto loop = std::move(EventLoop::create("fs").value());
  for (const auto& [tag, socket] : std::vector<std::pair<std::string, std::string>>{
           {"", "/run/x"}, {std::string(37, 't'), "/run/x"}, {"share", ""}, {"share", "/" + std::string(120, 'x')}}) {
    const auto device = FsDevice::create(*loop, tag, socket);
    ASSERT_FALSE(device);
    EXPECT_EQ(device.error().code, ErrorCode::kInvalidArgument);
  }
  const auto missing = FsDevice::create(*loop, "share", "/nonexistent/socket");
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code, ErrorCode::kNotFound);
}

}  // namespace
}  // namespace tshyve::virtio
