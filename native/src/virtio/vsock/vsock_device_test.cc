#include "virtio/vsock/vsock_device.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <cstring>

#include "base/testing/temporary_folder.h"
#include "net/unix_socket.h"
#include "virtio/testing/guest_driver.h"
#include "virtio/vsock/connect_line.h"

namespace tshyve::virtio {
namespace {

using test::DeviceHarness;
using Bytes = std::vector<std::byte>;
using Operation = VsockOperation;

constexpr std::uint16_t kReceive = 0;
constexpr std::uint16_t kSend = 1;
constexpr std::uint16_t kEvent = 2;
constexpr std::uint32_t kCid = 3;
constexpr std::uint32_t kBufferSize = 4096;

Bytes toBytes(std::string_view text) {
  Bytes bytes;
  for (const char character : text) bytes.push_back(static_cast<std::byte>(character));
  return bytes;
}

UniqueFd connectTo(const std::string& path) {
  UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const auto address = net::unixAddress(path);
  EXPECT_EQ(::connect(socket.get(), reinterpret_cast<const sockaddr*>(&*address), sizeof *address), 0) << path;
  return socket;
}

UniqueFd listenAt(const std::string& path) {
  UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const auto address = net::unixAddress(path);
  EXPECT_EQ(::bind(socket.get(), reinterpret_cast<const sockaddr*>(&*address), sizeof *address), 0);
  EXPECT_EQ(::listen(socket.get(), 8), 0);
  return socket;
}

UniqueFd acceptFrom(const UniqueFd& server) {
  return UniqueFd(::accept4(server.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
}

void sendText(const UniqueFd& socket, std::string_view text) {
  ASSERT_EQ(::send(socket.get(), text.data(), text.size(), MSG_NOSIGNAL), static_cast<ssize_t>(text.size()));
}

/// What there is to read now; "EOF" at the end.
std::string readText(const UniqueFd& socket) {
  std::string text(65536, '\0');
  const ssize_t count = ::recv(socket.get(), text.data(), text.size(), 0);
  if (count == 0) return "EOF";
  text.resize(static_cast<std::size_t>(std::max<ssize_t>(count, 0)));
  return text;
}

TEST(ConnectLine, Parses) {
  EXPECT_EQ(parseConnectCommand("CONNECT 1024"), 1024U);
  EXPECT_EQ(parseConnectCommand("CONNECT 4294967295"), UINT32_MAX);
  for (const char* line : {"", "CONNECT", "CONNECT ", "CONNECT -1", "CONNECT 4294967296", "CONNECT 10 ", "connect 10",
                           "CONNECT 0x10", "CONNECT  1"}) {
    EXPECT_FALSE(parseConnectCommand(line)) << line;
  }
  const auto address = parseVsockAddress("00000003.00000948");
  ASSERT_TRUE(address);
  EXPECT_EQ(address->cid, 3U);
  EXPECT_EQ(address->port, 0x948U);
  EXPECT_EQ(formatVsockAddress(*address), "00000003.00000948");
  for (const char* line : {"", "3.948", "00000003:00000948", "00000003.0000094g", "00000003.000009480"}) {
    EXPECT_FALSE(parseVsockAddress(line)) << line;
  }
}

struct Packet {
  VsockHeader header;
  Bytes data;
};

class VsockDeviceTest : public testing::Test {
 protected:
  void SetUp() override {
    loop = std::move(EventLoop::create("vsock")).value();
    make();
  }
  void TearDown() override {
    harness.reset();
    device.reset();
  }
  void make() {
    auto created = VsockDevice::create(*loop, config, {});
    ASSERT_TRUE(created) << created.error().message;
    device = std::move(*created);
    harness = std::make_unique<DeviceHarness>(*device, 32 << 20, 64);
  }
  void start(int buffers = 32) {
    ASSERT_TRUE(harness->activate());
    outstanding.clear();
    for (int index = 0; index < buffers; index++) offerBuffer();
    for (int index = 0; index < 4; index++) {
      harness->queue(kEvent).offer({{harness->allocator.allocate(8), 8, true}});
    }
    for (const std::uint16_t queue : {kReceive, kSend, kEvent}) harness->notify(queue);
  }
  void offerBuffer(std::uint32_t size = kBufferSize) {
    const std::uint64_t address = harness->allocator.allocate(size);
    outstanding[harness->queue(kReceive).offer({{address, size, true}})] = address;
  }
  /// The next packet for the guest, its buffer offered again; nothing when none comes.
  std::optional<Packet> receive(bool refill = true) {
    for (int round = 0; round < 20; round++) {
      if (const auto used = harness->queue(kReceive).takeUsed()) {
        const std::uint64_t address = outstanding.at(static_cast<std::uint16_t>(used->head));
        Packet packet{*harness->memory->read<VsockHeader>(address), Bytes(used->written - sizeof(VsockHeader))};
        EXPECT_EQ(packet.header.length, packet.data.size());
        EXPECT_TRUE(harness->memory->readBytes(address + sizeof(VsockHeader), packet.data));
        if (refill) offerBuffer();
        if (refill) harness->notify(kReceive);
        return packet;
      }
      loop->runOnce(std::chrono::milliseconds(5));
    }
    return std::nullopt;
  }
  std::optional<Operation> receiveOperation() {
    const auto packet = receive();
    if (!packet) return std::nullopt;
    return static_cast<Operation>(packet->header.operation);
  }
  VsockHeader header(Operation operation, std::uint32_t hostPort, std::uint32_t guestPort, std::size_t length = 0) {
    VsockHeader made;
    made.sourceCid = kCid;
    made.destinationCid = kHostCid;
    made.sourcePort = guestPort;
    made.destinationPort = hostPort;
    made.length = static_cast<std::uint32_t>(length);
    made.type = kVsockTypeStream;
    made.operation = static_cast<std::uint16_t>(operation);
    made.bufferAllocated = 65536;
    made.forwardedCount = forwarded;
    return made;
  }
  void sendRaw(const VsockHeader& made, const Bytes& data = {}) {
    Bytes bytes(sizeof made);
    std::memcpy(bytes.data(), &made, sizeof made);
    bytes.insert(bytes.end(), data.begin(), data.end());
    const std::uint64_t address = harness->allocator.put(bytes);
    // In two parts, as newer guests do.
    const auto half = static_cast<std::uint32_t>(bytes.size() / 2);
    harness->queue(kSend).offer(
        {{address, half, false}, {address + half, static_cast<std::uint32_t>(bytes.size()) - half, false}});
    harness->notify(kSend);
    EXPECT_TRUE(harness->queue(kSend).takeUsed());
  }
  void send(Operation operation, std::uint32_t hostPort, std::uint32_t guestPort, const Bytes& data = {},
            std::uint32_t flags = 0) {
    VsockHeader made = header(operation, hostPort, guestPort, data.size());
    made.flags = flags;
    sendRaw(made, data);
  }
  /// A connection the guest made to a server on the host.
  UniqueFd connectFromGuest(std::uint32_t hostPort, std::uint32_t guestPort) {
    const UniqueFd server = listenAt(folder.path("v/vsock.sock_" + std::to_string(hostPort)));
    send(Operation::kRequest, hostPort, guestPort);
    EXPECT_EQ(receiveOperation(), Operation::kResponse);
    UniqueFd socket = acceptFrom(server);
    EXPECT_TRUE(socket);
    return socket;
  }

  TemporaryFolder folder;
  VsockConfig config{kCid, folder.path("v")};
  std::unique_ptr<EventLoop> loop;
  std::unique_ptr<VsockDevice> device;
  std::unique_ptr<DeviceHarness> harness;
  std::map<std::uint16_t, std::uint64_t> outstanding;
  std::uint32_t forwarded = 0;
};

TEST_F(VsockDeviceTest, KeepsItsFolderPrivate) {
  struct stat status {};
  ASSERT_EQ(::stat(folder.path("v").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777U, 0700U);
  for (const char* name : {"v/connect", "v/vsock.sock"}) {
    ASSERT_EQ(::stat(folder.path(name).c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 0777U, 0600U);
  }
  Bytes config_bytes(8);
  device->readConfig(0, config_bytes);
  EXPECT_EQ(config_bytes[0], std::byte{kCid});
  // Another machine would take the sockets away.
  EXPECT_EQ(VsockDevice::create(*loop, config, {}).error().code, ErrorCode::kBusy);
  EXPECT_FALSE(VsockDevice::create(*loop, {2, folder.path("w")}, {}));
  EXPECT_FALSE(VsockDevice::create(*loop, {3, folder.path(std::string(100, 'x'))}, {}));
  harness.reset();
  device.reset();
  EXPECT_FALSE(std::filesystem::exists(folder.path("v/connect")));
}

TEST_F(VsockDeviceTest, ReplacesSocketsAKilledProcessLeft) {
  harness.reset();
  device.reset();
  listenAt(folder.path("v/connect")).reset();
  ASSERT_TRUE(std::filesystem::exists(folder.path("v/connect")));
  make();
}

class VsockFromHost : public VsockDeviceTest, public testing::WithParamInterface<bool> {};
INSTANTIATE_TEST_SUITE_P(Conventions, VsockFromHost, testing::Bool(),
                         [](const auto& tested) { return tested.param ? "Firecracker" : "Hyperkit"; });

TEST_P(VsockFromHost, ReachesTheGuest) {
  start();
  const UniqueFd client = connectTo(folder.path(GetParam() ? "v/vsock.sock" : "v/connect"));
  // What follows the line at once is the guest's already.
  sendText(client, GetParam() ? "CONNECT 1024\nhello" : "00000003.00000400\nhello");
  const auto request = receive();
  ASSERT_TRUE(request);
  EXPECT_EQ(static_cast<Operation>(request->header.operation), Operation::kRequest);
  EXPECT_EQ(request->header.destinationPort, 1024U);
  EXPECT_EQ(request->header.sourceCid, kHostCid);
  EXPECT_EQ(request->header.destinationCid, kCid);
  const std::uint32_t port = request->header.sourcePort;
  send(Operation::kResponse, port, 1024);
  EXPECT_EQ(readText(client), GetParam() ? "OK " + std::to_string(port) + "\n" : "");
  const auto data = receive();
  ASSERT_TRUE(data);
  EXPECT_EQ(data->data, toBytes("hello"));
  send(Operation::kData, port, 1024, toBytes("welcome"));
  EXPECT_EQ(readText(client), "welcome");
}

TEST_F(VsockDeviceTest, APortMayHaveASocketOfItsOwn) {
  harness.reset();
  device.reset();
  config.ports = {1024, 4'294'967'294};
  make();
  EXPECT_FALSE(std::filesystem::exists(folder.path("v/00000003.00000016")));
  EXPECT_TRUE(std::filesystem::exists(folder.path("v/00000003.fffffffe")));
  struct stat status {};
  ASSERT_EQ(::stat(folder.path("v/00000003.00000400").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777U, 0600U);
  // No guest yet.
  const UniqueFd early = connectTo(folder.path("v/00000003.00000400"));
  for (int round = 0; round < 3; round++) loop->runOnce(std::chrono::milliseconds(5));
  EXPECT_EQ(readText(early), "EOF");
  start();
  const UniqueFd client = connectTo(folder.path("v/00000003.00000400"));
  sendText(client, "hello");
  const auto request = receive();
  ASSERT_TRUE(request);
  EXPECT_EQ(static_cast<Operation>(request->header.operation), Operation::kRequest);
  EXPECT_EQ(request->header.destinationPort, 1024U);
  const std::uint32_t port = request->header.sourcePort;
  send(Operation::kResponse, port, 1024);
  const auto data = receive();
  ASSERT_TRUE(data);
  EXPECT_EQ(data->data, toBytes("hello"));
  send(Operation::kData, port, 1024, toBytes("welcome"));
  EXPECT_EQ(readText(client), "welcome");
}

TEST_P(VsockFromHost, IsTurnedAway) {
  const std::string path = folder.path(GetParam() ? "v/vsock.sock" : "v/connect");
  const std::string line = GetParam() ? "CONNECT 1024\n" : "00000003.00000400\n";
  // No guest yet.
  const UniqueFd early = connectTo(path);
  sendText(early, line);
  for (int round = 0; round < 3; round++) loop->runOnce(std::chrono::milliseconds(5));
  EXPECT_EQ(readText(early), "EOF");
  start();
  // Nobody listens in the guest.
  const UniqueFd refused = connectTo(path);
  sendText(refused, line);
  const auto request = receive();
  ASSERT_TRUE(request);
  send(Operation::kReset, request->header.sourcePort, 1024);
  EXPECT_EQ(readText(refused), "EOF");
  // Not a line.
  const UniqueFd wrong = connectTo(path);
  sendText(wrong, "GET / HTTP/1.1\n");
  for (int round = 0; round < 3; round++) loop->runOnce(std::chrono::milliseconds(5));
  EXPECT_EQ(readText(wrong), "EOF");
  EXPECT_EQ(device->connectionCount(), 0U);
}

TEST_F(VsockDeviceTest, ALineMayComeInPieces) {
  start();
  const UniqueFd client = connectTo(folder.path("v/vsock.sock"));
  for (const char* piece : {"CON", "NECT ", "77", "\n"}) {
    sendText(client, piece);
    for (int round = 0; round < 4; round++) loop->runOnce(std::chrono::milliseconds(4));
  }
  EXPECT_EQ(receiveOperation(), Operation::kRequest);
}

TEST_F(VsockDeviceTest, GivesUpOnAGuestThatDoesNotAnswer) {
  start();
  const UniqueFd client = connectTo(folder.path("v/vsock.sock"));
  sendText(client, "CONNECT 1024\n");
  EXPECT_EQ(receiveOperation(), Operation::kRequest);
  const auto before = std::chrono::steady_clock::now();
  std::optional<Operation> operation;
  while (!operation && std::chrono::steady_clock::now() - before < std::chrono::seconds(5)) {
    operation = receiveOperation();
  }
  EXPECT_EQ(operation, Operation::kReset);
  EXPECT_EQ(readText(client), "EOF");
  EXPECT_EQ(device->connectionCount(), 0U);
}

TEST_F(VsockDeviceTest, LeadsTheGuestToHostSocketsOfBothNames) {
  start();
  const UniqueFd first = connectFromGuest(5000, 1);
  send(Operation::kData, 5000, 1, toBytes("abc"));
  EXPECT_EQ(readText(first), "abc");
  sendText(first, "def");
  const auto data = receive();
  ASSERT_TRUE(data);
  EXPECT_EQ(data->data, toBytes("def"));
  EXPECT_EQ(data->header.forwardedCount, 3U);
  EXPECT_EQ(data->header.sourcePort, 5000U);

  const UniqueFd server = listenAt(folder.path("v/00000002.00000948"));
  send(Operation::kRequest, 0x948, 2);
  EXPECT_EQ(receiveOperation(), Operation::kResponse);
  EXPECT_TRUE(acceptFrom(server));

  send(Operation::kRequest, 6000, 3);
  EXPECT_EQ(receiveOperation(), Operation::kReset);
}

TEST_F(VsockDeviceTest, AnswersStraysWithAReset) {
  start();
  for (const Operation operation :
       {Operation::kData, Operation::kResponse, Operation::kShutdown, Operation::kCreditUpdate}) {
    send(operation, 99, 98);
    const auto packet = receive();
    ASSERT_TRUE(packet);
    EXPECT_EQ(static_cast<Operation>(packet->header.operation), Operation::kReset);
    EXPECT_EQ(packet->header.sourcePort, 99U);
    EXPECT_EQ(packet->header.destinationPort, 98U);
  }
  VsockHeader seqpacket = header(Operation::kRequest, 99, 98);
  seqpacket.type = 2;
  sendRaw(seqpacket);
  EXPECT_EQ(receiveOperation(), Operation::kReset);
  // Not worth an answer: resets, and what comes from or goes to nowhere.
  send(Operation::kReset, 99, 98);
  VsockHeader forged = header(Operation::kRequest, 99, 98);
  forged.sourceCid = 4;
  sendRaw(forged);
  forged = header(Operation::kRequest, 99, 98);
  forged.destinationCid = 1;
  sendRaw(forged);
  forged = header(Operation::kData, 99, 98, 1000);
  sendRaw(forged);
  EXPECT_FALSE(receive());
  EXPECT_FALSE(harness->signals.broken);
}

TEST_F(VsockDeviceTest, KeepsWhatASlowProgramDoesNotReadWithinTheCredit) {
  start();
  const UniqueFd program = connectFromGuest(5000, 1);
  // As a guest does: never more on the way than the credit told.
  const Bytes block(16384, std::byte{'x'});
  std::uint32_t sent = 0;
  std::uint32_t told = 0;
  while (sent - told + block.size() <= kVsockBufferBytes) {
    send(Operation::kData, 5000, 1, block);
    sent += static_cast<std::uint32_t>(block.size());
    while (const auto packet = receive()) told = packet->header.forwardedCount;
    ASSERT_LT(sent, 8U << 20);
  }
  ASSERT_GE(sent, kVsockBufferBytes);
  std::uint32_t read = 0;
  bool updated = false;
  while (read < sent) {
    const std::string text = readText(program);
    EXPECT_EQ(text.find_first_not_of('x'), std::string::npos);
    read += static_cast<std::uint32_t>(text.size());
    if (text.empty()) loop->runOnce(std::chrono::milliseconds(1));
    if (const auto packet = harness->queue(kReceive).takeUsed()) updated = true;
  }
  EXPECT_EQ(read, sent);
  EXPECT_TRUE(updated);
}

TEST_F(VsockDeviceTest, CutsOffAGuestThatExceedsItsCredit) {
  start();
  const UniqueFd program = connectFromGuest(5000, 1);
  const Bytes block(65000, std::byte{'x'});
  std::optional<Operation> operation;
  for (int round = 0; round < 100 && operation != Operation::kReset; round++) {
    send(Operation::kData, 5000, 1, block);
    if (const auto packet = harness->queue(kReceive).takeUsed()) {
      operation = static_cast<Operation>(
          harness->memory->read<VsockHeader>(outstanding.at(static_cast<std::uint16_t>(packet->head)))->operation);
    }
  }
  EXPECT_EQ(operation, Operation::kReset);
  EXPECT_EQ(device->connectionCount(), 0U);
}

TEST_F(VsockDeviceTest, SendsTheGuestNoMoreThanItHasRoomFor) {
  start();
  const UniqueFd program = connectFromGuest(5000, 1);
  sendText(program, std::string(100000, 'y'));
  std::uint32_t received = 0;
  bool asked = false;
  while (const auto packet = receive()) {
    received += packet->header.length;
    asked = asked || static_cast<Operation>(packet->header.operation) == Operation::kCreditRequest;
  }
  EXPECT_EQ(received, 65536U);
  EXPECT_TRUE(asked);
  forwarded = 30000;
  send(Operation::kCreditUpdate, 5000, 1);
  while (const auto packet = receive()) received += packet->header.length;
  EXPECT_EQ(received, 95536U);
  forwarded = 95536;
  send(Operation::kCreditUpdate, 5000, 1);
  while (const auto packet = receive()) received += packet->header.length;
  EXPECT_EQ(received, 100000U);
}

TEST_F(VsockDeviceTest, EndsOneDirectionAtATime) {
  start();
  const UniqueFd program = connectFromGuest(5000, 1);
  sendText(program, "last");
  ASSERT_EQ(::shutdown(program.get(), SHUT_WR), 0);
  const auto data = receive();
  ASSERT_TRUE(data);
  EXPECT_EQ(data->data, toBytes("last"));
  const auto end = receive();
  ASSERT_TRUE(end);
  EXPECT_EQ(static_cast<Operation>(end->header.operation), Operation::kShutdown);
  EXPECT_EQ(end->header.flags, kVsockShutdownSend);
  send(Operation::kData, 5000, 1, toBytes("answer"));
  EXPECT_EQ(readText(program), "answer");
  send(Operation::kShutdown, 5000, 1, {}, kVsockShutdownBoth);
  EXPECT_EQ(readText(program), "EOF");
  EXPECT_EQ(receiveOperation(), Operation::kReset);
  EXPECT_EQ(device->connectionCount(), 0U);
}

TEST_F(VsockDeviceTest, PassesTheGuestsEndOn) {
  start();
  const UniqueFd program = connectFromGuest(5000, 1);
  send(Operation::kData, 5000, 1, toBytes("bye"));
  send(Operation::kShutdown, 5000, 1, {}, kVsockShutdownSend);
  EXPECT_EQ(readText(program), "bye");
  EXPECT_EQ(readText(program), "EOF");
  sendText(program, "more");
  const auto data = receive();
  ASSERT_TRUE(data);
  EXPECT_EQ(data->data, toBytes("more"));
}

TEST_F(VsockDeviceTest, TellsTheGuestWhenAProgramIsGone) {
  start();
  UniqueFd program = connectFromGuest(5000, 1);
  program.reset();
  const auto end = receive();
  ASSERT_TRUE(end);
  EXPECT_EQ(static_cast<Operation>(end->header.operation), Operation::kShutdown);
  EXPECT_EQ(end->header.flags, kVsockShutdownBoth);
  send(Operation::kReset, 5000, 1);
  EXPECT_EQ(device->connectionCount(), 0U);
  // A guest that does not confirm.
  program = connectFromGuest(5001, 2);
  program.reset();
  EXPECT_EQ(receiveOperation(), Operation::kShutdown);
  std::optional<Operation> operation;
  const auto before = std::chrono::steady_clock::now();
  while (!operation && std::chrono::steady_clock::now() - before < std::chrono::seconds(5)) {
    operation = receiveOperation();
  }
  EXPECT_EQ(operation, Operation::kReset);
}

TEST_F(VsockDeviceTest, WaitsForBuffersOfTheGuest) {
  start(1);
  const UniqueFd program = connectFromGuest(5000, 1);
  // One buffer is offered again; take it away.
  sendText(program, "a");
  ASSERT_TRUE(receive(false));
  sendText(program, "b");
  for (int round = 0; round < 5; round++) loop->runOnce(std::chrono::milliseconds(2));
  EXPECT_FALSE(harness->queue(kReceive).takeUsed());
  offerBuffer();
  harness->notify(kReceive);
  const auto packet = receive();
  ASSERT_TRUE(packet);
  EXPECT_EQ(packet->data, toBytes("b"));
}

TEST_F(VsockDeviceTest, LimitsWhatAFloodingGuestMakesItRemember) {
  start(0);
  // No buffer for the answers: after some, packets stay in the queue.
  std::size_t taken = 0;
  for (int round = 0; round < 20; round++) {
    for (int index = 0; index < 64; index++) {
      const VsockHeader stray = header(Operation::kData, 1, 2);
      harness->queue(kSend).offer({{harness->allocator.put(stray), sizeof stray, false}});
    }
    harness->notify(kSend);
    while (harness->queue(kSend).takeUsed()) taken++;
    if (taken < static_cast<std::size_t>(round + 1) * 64) break;
  }
  EXPECT_EQ(taken, 256U);
  // Buffers let them through again.
  for (int index = 0; index < 32; index++) offerBuffer();
  harness->notify(kReceive);
  for (int round = 0; round < 5; round++) loop->runOnce(std::chrono::milliseconds(1));
  while (harness->queue(kSend).takeUsed()) taken++;
  EXPECT_GT(taken, 256U);
}

TEST_F(VsockDeviceTest, HoldsTheDriverToTheProtocol) {
  start(0);
  offerBuffer(43);
  send(Operation::kData, 1, 2);
  EXPECT_TRUE(harness->signals.broken);
  harness->signals.broken.reset();
  start();
  harness->queue(kSend).setAvailableIndex(9999);
  harness->notify(kSend);
  EXPECT_TRUE(harness->signals.broken);
}

TEST_F(VsockDeviceTest, ConnectionsSurviveAPauseAndNotAReset) {
  start();
  const UniqueFd program = connectFromGuest(5000, 1);
  device->pause();
  sendText(program, "while paused");
  loop->runOnce(std::chrono::milliseconds(5));
  EXPECT_FALSE(harness->queue(kReceive).takeUsed());
  device->resume();
  const auto packet = receive();
  ASSERT_TRUE(packet);
  EXPECT_EQ(packet->data, toBytes("while paused"));
  harness->reset();
  EXPECT_EQ(readText(program), "EOF");
}

TEST_F(VsockDeviceTest, ARestoredGuestForgetsItsConnectionsFirst) {
  start();
  const UniqueFd program = connectFromGuest(5000, 1);
  device->pause();
  StateWriter writer;
  device->save(writer);
  const Bytes state(writer.data().begin(), writer.data().end());
  harness.reset();
  device.reset();
  make();
  // Rings as a restored guest has them, its event buffers offered.
  const auto memory = test::makeMemory();
  test::GuestAllocator allocator(*memory);
  std::vector<std::unique_ptr<test::GuestQueue>> guest;
  std::vector<std::unique_ptr<Queue>> queues;
  std::vector<Queue*> pointers;
  for (int index = 0; index < 3; index++) {
    guest.push_back(std::make_unique<test::GuestQueue>(*memory, allocator, 16));
    queues.push_back(std::move(Queue::create(*memory, guest.back()->layout(), kFeatureEventIndex)).value());
    pointers.push_back(queues.back().get());
  }
  const std::uint64_t event = allocator.put(std::uint32_t{77});
  guest[kEvent]->offer({{event, 4, true}});
  guest[kEvent]->offer({{allocator.allocate(4), 4, true}});
  const std::uint64_t buffer = allocator.allocate(kBufferSize);
  guest[kReceive]->offer({{buffer, kBufferSize, true}});
  StateReader reader(state);
  ASSERT_TRUE(device->restore(reader));
  device->pause();
  test::RecordingSignals signals;
  ASSERT_TRUE(
      device->activate({.memory = *memory, .queues = pointers, .features = kFeatureEventIndex, .signals = signals}));
  EXPECT_FALSE(guest[kEvent]->takeUsed());
  device->resume();
  const auto told = guest[kEvent]->takeUsed();
  ASSERT_TRUE(told);
  EXPECT_EQ(told->written, 4U);
  EXPECT_EQ(memory->read<std::uint32_t>(event), kVsockEventTransportReset);
  // Nothing else until the guest has dealt with it, which it shows by giving the buffer back.
  const UniqueFd client = connectTo(folder.path("v/vsock.sock"));
  sendText(client, "CONNECT 1024\n");
  for (int round = 0; round < 4; round++) loop->runOnce(std::chrono::milliseconds(5));
  EXPECT_FALSE(guest[kReceive]->takeUsed());
  // The driver is asked to tell about exactly that buffer.
  EXPECT_EQ(guest[kEvent]->availableEvent(), 2);
  guest[kEvent]->offer({{event, 4, true}});
  device->notify(kEvent);
  for (int round = 0; round < 4; round++) loop->runOnce(std::chrono::milliseconds(5));
  ASSERT_TRUE(guest[kReceive]->takeUsed());
  EXPECT_EQ(memory->read<VsockHeader>(buffer)->operation, static_cast<std::uint16_t>(Operation::kRequest));
  // Not a port that an old connection of the guest's may have.
  EXPECT_GE(memory->read<VsockHeader>(buffer)->sourcePort, 1U << 30);
  EXPECT_EQ(queues[kEvent]->position().nextAvailable, 1);
  device->reset();
  for (std::size_t length = 0; length < state.size(); length++) {
    StateReader cut{std::span(state).first(length)};
    EXPECT_FALSE(device->restore(cut));
  }
}

}  // namespace
}  // namespace tshyve::virtio
