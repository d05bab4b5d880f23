#include "vz/vz_machine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <iterator>
#include <thread>
#include <tuple>
#include <utility>

#include "base/testing/temporary_folder.h"
#include "net/unix_socket.h"
#include "vz/testing/fake_framework.h"

namespace tshyve::vz {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using testing::FakeFramework;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Matches;
using ::testing::Not;
using testing::Reply;

class VzMachineTest : public ::testing::Test {
 protected:
  VzMachineTest() {
    std::string kernel(5000, 'k');
    kernel.replace(0x38, 4, "ARM\x64");
    write("kernel", kernel);
    framework_->host.version = {15, 0};
    framework_->host.supported = framework_->host.entitled = true;
    framework_->host.maxCpus = 8;
    framework_->host.maxMemoryBytes = std::uint64_t{1} << 34;
    config_.name = "dev";
    config_.memoryBytes = std::uint64_t{1} << 30;
    config_.boot = {folder_.path("kernel"), "", "quiet"};
    config_.networks = {{"02:00:00:00:00:01", NatNetwork{}}};
    patience_.command = patience_.saving = std::chrono::milliseconds(300);
    patience_.stopPoll = std::chrono::milliseconds(1);
  }

  ~VzMachineTest() override { framework_->drain(); }

  void write(const std::string& name, const std::string& content) {
    std::ofstream(folder_.path(name), std::ios::binary) << content;
  }
  std::string read(const std::string& name) {
    std::ifstream file(folder_.path(name), std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }

  Result<std::unique_ptr<Machine>> make(std::optional<std::string> snapshot = std::nullopt) {
    return makeMachine(
        framework_, config_, snapshot,
        [this](MachineEvent event) {
          const std::lock_guard lock(mutex_);
          if (const auto* console = std::get_if<ConsoleOutput>(&event)) told_.push_back("console " + console->bytes);
          if (const auto* log = std::get_if<MachineLog>(&event)) told_.push_back("log " + log->line);
          if (const auto* exited = std::get_if<MachineExited>(&event)) {
            told_.push_back("exited " + std::to_string(static_cast<int>(exited->reason)) + " " + exited->detail);
          }
        },
        patience_);
  }
  std::unique_ptr<Machine> made(std::optional<std::string> snapshot = std::nullopt) {
    auto machine = make(std::move(snapshot));
    EXPECT_TRUE(machine) << machine.error().message;
    return std::move(machine).value();
  }
  std::unique_ptr<Machine> running() {
    auto machine = made();
    EXPECT_TRUE(machine->start());
    return machine;
  }
  std::vector<std::string> told() {
    const std::lock_guard lock(mutex_);
    return told_;
  }
  static std::string killed() { return "exited 2 the machine was ended by request"; }

  TemporaryFolder folder_;
  std::shared_ptr<FakeFramework> framework_ = std::make_shared<FakeFramework>();
  MachineConfig config_;
  Patience patience_;

 private:
  std::mutex mutex_;
  std::vector<std::string> told_;  // guarded by mutex_
};

TEST_F(VzMachineTest, LivesAndIsEnded) {
  auto machine = running();
  EXPECT_TRUE(machine->pause());
  EXPECT_TRUE(machine->resume());
  EXPECT_TRUE(machine->pressPowerButton());
  EXPECT_EQ(machine->statistics().balloonBytes, 4096U);
  machine->stop();
  machine->stop();
  EXPECT_EQ(machine->start().error().message, "the machine has ended");
  machine.reset();
  EXPECT_THAT(framework_->calls(), ElementsAre("build", "start", "pause", "resume", "requestStop", "stop", "release"));
  EXPECT_THAT(told(), ElementsAre(killed()));
}

TEST_F(VzMachineTest, IsEndedWithItsOwner) {
  running().reset();
  EXPECT_THAT(framework_->calls(), ElementsAre("build", "start", "stop", "release"));
  EXPECT_THAT(told(), ElementsAre(killed()));
}

TEST_F(VzMachineTest, IsReleasedWithoutHavingRun) {
  made().reset();
  EXPECT_THAT(framework_->calls(), ElementsAre("build", "release"));
}

TEST_F(VzMachineTest, TellsThatTheGuestPoweredOff) {
  auto machine = running();
  framework_->powerOff();
  EXPECT_THAT(told(), ElementsAre("exited 0 the guest powered off"));
  EXPECT_EQ(machine->pause().error().code, ErrorCode::kState);
  machine.reset();
  EXPECT_THAT(framework_->calls(), Not(Contains("stop")));
  EXPECT_EQ(told().size(), 1U);
}

TEST_F(VzMachineTest, TellsTheEndOnce) {
  auto machine = running();
  framework_->onQueue([&] {
    framework_->state = State::kError;
    framework_->observer->stoppedWithError("Internal Virtualization error.");
    framework_->observer->guestStopped();
    framework_->observer->networkDisconnected("too late to be told");
  });
  machine->stop();
  machine.reset();
  EXPECT_THAT(told(), ElementsAre("exited 3 macOS ended the machine: Internal Virtualization error."));
}

TEST_F(VzMachineTest, TellsWhatWasPrintedBeforeTheEnd) {
  auto machine = running();
  for (int round = 0; round < 50; ++round) {
    ASSERT_EQ(::write(framework_->resources.serialPorts[0].write, "line\n", 5), 5);
  }
  framework_->powerOff();
  const auto all = told();
  ASSERT_FALSE(all.empty());
  EXPECT_EQ(all.back(), "exited 0 the guest powered off");
  std::string printed;
  for (std::size_t i = 0; i + 1 < all.size(); ++i) printed += all[i].substr(std::strlen("console "));
  EXPECT_EQ(printed.size(), 250U);
}

TEST_F(VzMachineTest, GivesConsoleInputUntilNobodyReads) {
  auto machine = running();
  const std::string text = "hello";
  ASSERT_TRUE(machine->writeConsole(std::as_bytes(std::span(text))));
  char got[16] = {};
  EXPECT_EQ(::read(framework_->resources.serialPorts[0].read, got, sizeof got), 5);
  EXPECT_EQ(std::string(got), text);
  const std::vector<std::byte> flood(1 << 20);
  EXPECT_EQ(machine->writeConsole(flood).error().code, ErrorCode::kBusy);
}

TEST_F(VzMachineTest, TellsOfALostNetwork) {
  auto machine = running();
  framework_->onQueue([&] { framework_->observer->networkDisconnected("the interface went away"); });
  EXPECT_THAT(told(), ElementsAre(HasSubstr("disconnected: the interface went away")));
}

TEST_F(VzMachineTest, RefusesWhatThePlanRefuses) {
  config_.cpus = 99;
  EXPECT_EQ(make().error().code, ErrorCode::kInvalidArgument);
  EXPECT_THAT(framework_->calls(), IsEmpty());
}

TEST_F(VzMachineTest, ExplainsWhyTheFrameworkRefuses) {
  framework_->buildError = "macOS refuses the machine: Invalid configuration. no entitlement (VZErrorDomain 2)";
  EXPECT_THAT(make().error().message, HasSubstr("Use tshyve's own executable"));
}

TEST_F(VzMachineTest, NamesAMissingKernel) {
  ::unlink(folder_.path("kernel").c_str());
  EXPECT_THAT(make().error().message, HasSubstr(folder_.path("kernel")));
}

TEST_F(VzMachineTest, AFailedStartIsNoEnd) {
  framework_->script["start"] = Reply::kError;
  auto machine = made();
  EXPECT_THAT(machine->start().error().message, HasSubstr("Internal Virtualization error."));
  EXPECT_THAT(told(), IsEmpty());
  framework_->script.clear();
  EXPECT_TRUE(machine->start());
}

TEST_F(VzMachineTest, WaitsForALateAnswer) {
  for (const char* call : {"start", "pause", "resume", "stop"}) framework_->script[call] = Reply::kLate;
  auto machine = running();
  EXPECT_TRUE(machine->pause());
  EXPECT_TRUE(machine->resume());
  machine.reset();
  EXPECT_THAT(framework_->calls(), ElementsAre("build", "start", "pause", "resume", "stop", "release"));
}

TEST_F(VzMachineTest, GivesUpWaiting) {
  framework_->script["pause"] = Reply::kSilent;
  auto machine = running();
  const auto paused = machine->pause();
  EXPECT_THAT(paused.error().message, HasSubstr("pausing the machine has not ended within"));
  EXPECT_THAT(machine->resume().error().message, HasSubstr("being paused; try again"));
  // The pause comes through after all, and the machine can be ended.
  std::thread later([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    framework_->onQueue([&] { framework_->state = State::kPaused; });
  });
  machine->stop();
  later.join();
  EXPECT_THAT(framework_->calls(), ElementsAre("build", "start", "pause", "stop"));
  EXPECT_THAT(told(), ElementsAre(killed()));
}

TEST_F(VzMachineTest, AsksAgainWhenTheEndIsRefused) {
  framework_->script["stop"] = Reply::kError;
  auto machine = running();
  std::thread later([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    framework_->onQueue([&] { framework_->script.clear(); });
  });
  machine->stop();
  later.join();
  const auto all = told();
  EXPECT_EQ(all.back(), killed());
  EXPECT_THAT(all.front(), HasSubstr("did not end the machine"));
}

TEST_F(VzMachineTest, SavesAndRestores) {
  const std::string folder = folder_.path("saved");
  {
    auto machine = running();
    EXPECT_THAT(machine->save(folder).error().message, HasSubstr("only a paused machine"));
    ASSERT_TRUE(machine->pause());
    framework_->onSave = [](const std::string& file) { std::ofstream(file) << "state"; };
    ASSERT_TRUE(machine->save(folder));
    EXPECT_EQ(read("saved/machine-identifier"), "new identifier");
    struct stat info {};
    ASSERT_EQ(::stat((folder + "/machine-state").c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 0777U, 0600U);
    // It stays paused, and goes on.
    EXPECT_TRUE(machine->resume());
  }
  auto machine = made(folder);
  EXPECT_EQ(framework_->resources.identifier, "new identifier");
  ASSERT_TRUE(machine->start());
  const auto calls = framework_->calls();
  EXPECT_THAT(calls, Contains("restore " + folder + "/machine-state"));
  EXPECT_EQ(calls.back(), "resume");
}

TEST_F(VzMachineTest, AFailedSaveLeavesNoState) {
  auto machine = running();
  ASSERT_TRUE(machine->pause());
  framework_->script["save"] = Reply::kError;
  framework_->onSave = [](const std::string& file) { std::ofstream(file) << "half"; };
  EXPECT_FALSE(machine->save(folder_.path("saved")));
  EXPECT_NE(::access(folder_.path("saved/machine-state").c_str(), F_OK), 0);
  EXPECT_THAT(make(folder_.path("saved")).error().message, HasSubstr("cannot read the saved machine's"));
  EXPECT_TRUE(machine->resume());
}

TEST_F(VzMachineTest, RefusesADamagedIdentifier) {
  ASSERT_EQ(::mkdir(folder_.path("saved").c_str(), 0700), 0);
  write("saved/machine-state", "state");
  EXPECT_EQ(make(folder_.path("saved")).error().code, ErrorCode::kNotFound);
  for (const std::size_t size : {0U, 4097U}) {
    write("saved/machine-identifier", std::string(size, 'x'));
    EXPECT_EQ(make(folder_.path("saved")).error().code, ErrorCode::kCorrupt);
  }
}

TEST_F(VzMachineTest, MakesATerminalForTheGuest) {
  config_.serial = {folder_.path("serial.log"), folder_.path("tty")};
  auto machine = running();
  ASSERT_EQ(framework_->resources.serialPorts.size(), 3U);
  EXPECT_EQ(framework_->resources.serialPorts[1].write, -1);
  ASSERT_EQ(::write(framework_->resources.serialPorts[2].write, "hi\n", 3), 3);
  std::ifstream terminal(folder_.path("tty"));
  std::string line;
  std::getline(terminal, line);
  EXPECT_THAT(line, HasSubstr("hi"));
  machine.reset();
  struct stat info {};
  EXPECT_NE(::lstat(folder_.path("tty").c_str(), &info), 0);
}

TEST_F(VzMachineTest, ConnectsAFrameSocket) {
  const auto address = net::unixAddress(folder_.path("peer"));
  const UniqueFd peer(::socket(AF_UNIX, SOCK_DGRAM, 0));
  ASSERT_EQ(::bind(peer.get(), reinterpret_cast<const sockaddr*>(&*address), sizeof *address), 0);
  config_.networks[0].backend = DatagramNetwork{folder_.path("peer"), folder_.path("own"), -1};
  {
    auto machine = running();
    ASSERT_EQ(::send(framework_->resources.sockets[0], "frame", 5, 0), 5);
    char got[16];
    EXPECT_EQ(::recv(peer.get(), got, sizeof got, 0), 5);
    EXPECT_EQ(make().error().code, ErrorCode::kBusy);
  }
  EXPECT_NE(::access(folder_.path("own").c_str(), F_OK), 0);
  config_.networks[0].backend = DatagramNetwork{folder_.path("none"), folder_.path("own"), -1};
  EXPECT_EQ(make().error().code, ErrorCode::kNotFound);
  EXPECT_NE(::access(folder_.path("own").c_str(), F_OK), 0);
}

TEST_F(VzMachineTest, ForwardsNoPorts) {
  auto machine = made();
  EXPECT_EQ(machine->addForward(0, {}).error().code, ErrorCode::kUnsupported);
  EXPECT_EQ(machine->removeForward(0, {}).error().code, ErrorCode::kUnsupported);
}

/// With guest sockets.
class VzSocketsTest : public VzMachineTest {
 protected:
  VzSocketsTest() {
    config_.vsock = VsockConfig{3, folder_.path("v"), {1024}};
    framework_->onConnect = [this](std::uint32_t port) -> Result<UniqueFd> {
      if (port != 22) return Error{ErrorCode::kHost, "the guest does not listen"};
      int ends[2];
      if (::socketpair(AF_UNIX, SOCK_STREAM, 0, ends) != 0) return Error::fromErrno("socketpair");
      guest_.reset(ends[0]);
      return UniqueFd(ends[1]);
    };
  }
  UniqueFd client(const std::string& name) {
    const auto address = net::unixAddress(folder_.path("v/" + name));
    UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM, 0));
    EXPECT_EQ(::connect(fd.get(), reinterpret_cast<const sockaddr*>(&*address), sizeof *address), 0) << name;
    const timeval patience{20, 0};
    ::setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    return fd;
  }
  static void say(const UniqueFd& fd, const std::string& text) {
    ASSERT_EQ(::send(fd.get(), text.data(), text.size(), MSG_NOSIGNAL), static_cast<ssize_t>(text.size()));
  }
  /// Reads this many bytes, or up to the end.
  static std::string hear(const UniqueFd& fd, std::size_t size) {
    std::string text(size, '\0');
    std::size_t done = 0;
    while (done < size) {
      const ssize_t got = ::recv(fd.get(), text.data() + done, size - done, 0);
      if (got <= 0) break;
      done += static_cast<std::size_t>(got);
    }
    return text.substr(0, done);
  }
  UniqueFd guest_;
};

TEST_F(VzSocketsTest, ClientsReachTheGuest) {
  auto machine = running();
  for (const auto& [name, line, answer] :
       {std::tuple<std::string, std::string, std::string>{"connect", "00000003.00000016\n", ""},
        {"vsock.sock", "CONNECT 22\n", "OK 1073741824\n"}}) {
    const UniqueFd caller = client(name);
    say(caller, line + "hello");
    ASSERT_EQ(hear(caller, answer.size()), answer);
    // The guest's end is there once the framework was asked.
    if (answer.empty()) {
      for (int i = 0; i < 5000 && !Matches(Contains("connect 22"))(framework_->calls()); ++i) ::usleep(1000);
    }
    framework_->onQueue([] {});
    ASSERT_EQ(hear(guest_, 5), "hello");
    say(guest_, "world");
    EXPECT_EQ(hear(caller, 5), "world");
    // Half a connection ends, the other goes on.
    ::shutdown(caller.get(), SHUT_WR);
    EXPECT_EQ(hear(guest_, 1), "");
    say(guest_, "bye");
    guest_.reset();
    EXPECT_EQ(hear(caller, 100), "bye");
  }
}

TEST_F(VzSocketsTest, APortMayHaveASocketOfItsOwn) {
  config_.vsock->ports = {22, 23};
  auto machine = running();
  const UniqueFd caller = client("00000003.00000016");
  say(caller, "hello");
  for (int i = 0; i < 5000 && !Matches(Contains("connect 22"))(framework_->calls()); ++i) ::usleep(1000);
  framework_->onQueue([] {});
  ASSERT_EQ(hear(guest_, 5), "hello");
  say(guest_, "world");
  EXPECT_EQ(hear(caller, 5), "world");
  // Nobody listens there in the guest.
  EXPECT_EQ(hear(client("00000003.00000017"), 1), "");
}

TEST_F(VzSocketsTest, CarriesMuch) {
  auto machine = running();
  const UniqueFd caller = client("vsock.sock");
  say(caller, "CONNECT 22\n");
  hear(caller, 14);
  const std::string flood(3 << 20, 'x');
  std::thread sender([&] { say(caller, flood); });
  EXPECT_EQ(hear(guest_, flood.size()), flood);
  sender.join();
}

TEST_F(VzSocketsTest, HangsUpOnWhoSaysNonsense) {
  auto machine = running();
  for (const auto& [name, line] : {std::pair<std::string, std::string>{"connect", "nonsense\n"},
                                   {"connect", "00000004.00000016\n"},
                                   {"vsock.sock", "CONNECT x\n"},
                                   {"vsock.sock", std::string(100, 'x')},
                                   {"vsock.sock", "CONNECT 23\n"}}) {
    const UniqueFd caller = client(name);
    say(caller, line);
    EXPECT_EQ(hear(caller, 1), "") << line;
  }
}

TEST_F(VzSocketsTest, TheGuestReachesTheHost) {
  auto machine = running();
  EXPECT_THAT(framework_->resources.listenPorts, ElementsAre(1024U));
  for (const std::string name : {"v/vsock.sock_1024", "v/00000002.00000400"}) {
    const auto address = net::unixAddress(folder_.path(name));
    const UniqueFd server(::socket(AF_UNIX, SOCK_STREAM, 0));
    ASSERT_EQ(::bind(server.get(), reinterpret_cast<const sockaddr*>(&*address), sizeof *address), 0);
    ASSERT_EQ(::listen(server.get(), 1), 0);
    int ends[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    const UniqueFd guest(ends[0]);
    bool taken = false;
    framework_->onQueue([&] { taken = framework_->observer->guestConnected(1024, UniqueFd(ends[1])); });
    ASSERT_TRUE(taken);
    const UniqueFd host(::accept(server.get(), nullptr, nullptr));
    say(guest, "hi");
    EXPECT_EQ(hear(host, 2), "hi");
    say(host, "ho");
    EXPECT_EQ(hear(guest, 2), "ho");
    ::unlink(folder_.path(name).c_str());
  }
  bool taken = true;
  framework_->onQueue([&] { taken = framework_->observer->guestConnected(1024, UniqueFd(::dup(0))); });
  EXPECT_FALSE(taken);
}

TEST_F(VzSocketsTest, RemovesItsSockets) {
  running().reset();
  EXPECT_NE(::access(folder_.path("v/connect").c_str(), F_OK), 0);
  EXPECT_NE(::access(folder_.path("v/vsock.sock").c_str(), F_OK), 0);
}

TEST_F(VzMachineTest, SavesNothingWhereMacOsCannot) {
  framework_->host.version = {13, 0};
  auto machine = running();
  ASSERT_TRUE(machine->pause());
  EXPECT_THAT(machine->save(folder_.path("saved")).error().message, HasSubstr("needs macOS 14"));
  EXPECT_THAT(make(folder_.path("saved")).error().message, HasSubstr("needs macOS 14"));
}

}  // namespace
}  // namespace tshyve::vz
