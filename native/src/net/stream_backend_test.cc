#include "net/stream_backend.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>

#include <thread>

#include "base/testing/temporary_folder.h"
#include "net/testing/frames.h"
#include "net/unix_socket.h"

namespace tshyve::net {
namespace {

using test::Frame;
using test::FrameWriter;
using test::receiveFrame;
using test::runUntil;
using test::sendFrames;

Frame numbered(std::size_t size, unsigned number) {
  Frame frame(size, static_cast<std::byte>(number));
  return frame;
}

/// A server on a unix stream socket.
class Server {
 public:
  explicit Server(const std::string& path) : socket_(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    const auto address = unixAddress(path);
    ::unlink(path.c_str());
    EXPECT_EQ(::bind(socket_.get(), reinterpret_cast<const sockaddr*>(&*address), sizeof *address), 0);
    EXPECT_EQ(::listen(socket_.get(), 4), 0);
  }
  UniqueFd accept() { return UniqueFd(::accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC)); }

 private:
  UniqueFd socket_;
};

void writeAll(int fd, const Frame& bytes) {
  ASSERT_EQ(::send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL), static_cast<ssize_t>(bytes.size()));
}

Frame readExactly(int fd, std::size_t size) {
  Frame bytes(size);
  EXPECT_EQ(::recv(fd, bytes.data(), size, MSG_WAITALL), static_cast<ssize_t>(size));
  return bytes;
}

Frame readFrame(int fd) {
  const Frame prefix = readExactly(fd, 4);
  std::size_t length = 0;
  for (const std::byte byte : prefix) length = length << 8 | std::to_integer<std::size_t>(byte);
  return readExactly(fd, length);
}

class StreamBackendTest : public testing::Test {
 protected:
  void SetUp() override { loop = std::move(EventLoop::create("test")).value(); }
  void connect() {
    auto created = StreamBackend::create(*loop, StreamNetwork{path}, [this](std::string line) { log.push_back(line); });
    ASSERT_TRUE(created) << created.error().message;
    backend = std::move(created).value();
    backend->setListener(&listener);
    backend->setReceiving(true);
    peer = server.accept();
  }
  TemporaryFolder folder;
  std::string path = folder.path("s");
  Server server{path};
  std::unique_ptr<EventLoop> loop;
  test::RecordingListener listener;
  std::vector<std::string> log;
  std::unique_ptr<StreamBackend> backend;
  UniqueFd peer;
};

TEST_F(StreamBackendTest, PutsALengthBeforeEachFrame) {
  connect();
  EXPECT_EQ(sendFrames(*backend, {numbered(60, 1), numbered(65000, 2)}), 2U);
  EXPECT_EQ(readFrame(peer.get()), numbered(60, 1));
  EXPECT_EQ(readFrame(peer.get()), numbered(65000, 2));
}

TEST_F(StreamBackendTest, TellsWhenFramesArrive) {
  connect();
  writeAll(peer.get(), FrameWriter().u32(64).append(numbered(64, 7)).u32(20).append(numbered(20, 8)).u16(0).frame);
  ASSERT_TRUE(runUntil(*loop, [&] { return listener.ready > 0; }));
  EXPECT_EQ(receiveFrame(*backend), numbered(64, 7));
  EXPECT_EQ(receiveFrame(*backend), numbered(20, 8));
  EXPECT_EQ(receiveFrame(*backend), std::nullopt);
  writeAll(peer.get(), FrameWriter().u16(16).append(numbered(16, 9)).frame);
  ASSERT_TRUE(runUntil(*loop, [&] { return listener.ready > 1; }));
  EXPECT_EQ(receiveFrame(*backend), numbered(16, 9));
}

TEST_F(StreamBackendTest, DropsFramesThatFitNoBufferAndRunts) {
  connect();
  writeAll(peer.get(), FrameWriter().u32(13).append(numbered(13, 1)).u32(0).u32(101).append(numbered(101, 2)).frame);
  writeAll(peer.get(), FrameWriter().u32(100).append(numbered(100, 3)).frame);
  EXPECT_EQ(receiveFrame(*backend, 100), numbered(100, 3));
  EXPECT_EQ(backend->counters().receiveDropped, 3U);
}

TEST_F(StreamBackendTest, StaysQuietWhileNotReceiving) {
  connect();
  backend->setReceiving(false);
  writeAll(peer.get(), FrameWriter().u32(60).append(numbered(60, 1)).frame);
  for (int round = 0; round < 5; round++) loop->runOnce(std::chrono::milliseconds(2));
  EXPECT_EQ(listener.ready, 0);
  backend->setReceiving(true);
  EXPECT_TRUE(runUntil(*loop, [&] { return listener.ready > 0; }));
}

TEST_F(StreamBackendTest, WaitsForASlowPeerWithoutLosingOrTearingFrames) {
  connect();
  unsigned sent = 0;
  // Until the socket is full: a frame taken in part counts, the next is refused.
  while (sendFrames(*backend, {numbered(30000, sent & 0xff)}) == 1) sent++;
  ASSERT_GT(sent, 2U);
  ASSERT_LT(sent, 2000U);
  EXPECT_EQ(sendFrames(*backend, {numbered(60, 0)}), 0U);
  EXPECT_EQ(listener.sendable, 0);
  std::thread reader([&] {
    for (unsigned index = 0; index < sent; index++) ASSERT_EQ(readFrame(peer.get()), numbered(30000, index & 0xff));
    ASSERT_EQ(readFrame(peer.get()), numbered(60, 5));
  });
  EXPECT_TRUE(runUntil(*loop, [&] { return listener.sendable > 0; }));
  EXPECT_EQ(sendFrames(*backend, {numbered(60, 5)}), 1U);
  reader.join();
  EXPECT_EQ(backend->counters().sendDropped, 0U);
}

TEST_F(StreamBackendTest, ComesBackWhenThePeerDoes) {
  connect();
  EXPECT_TRUE(backend->linkUp());
  peer.reset();
  ASSERT_TRUE(runUntil(*loop, [&] {
    if (listener.ready > 0) {
      EXPECT_EQ(receiveFrame(*backend), std::nullopt);
    }
    return listener.linkChanges == 1;
  }));
  EXPECT_FALSE(backend->linkUp());
  EXPECT_EQ(sendFrames(*backend, {numbered(60, 1)}), 1U);
  EXPECT_EQ(backend->counters().sendDropped, 1U);
  ASSERT_TRUE(runUntil(*loop, [&] { return listener.linkChanges == 2; }));
  EXPECT_TRUE(backend->linkUp());
  peer = server.accept();
  EXPECT_EQ(sendFrames(*backend, {numbered(60, 2)}), 1U);
  EXPECT_EQ(readFrame(peer.get()), numbered(60, 2));
  ASSERT_EQ(log.size(), 2U);
  EXPECT_EQ(log[1], "network peer at " + path + " is back");
}

TEST_F(StreamBackendTest, ASenderThatWaitsIsReleasedWhenThePeerGoes) {
  connect();
  while (sendFrames(*backend, {numbered(30000, 1)}) == 1) {
  }
  peer.reset();
  ASSERT_TRUE(runUntil(*loop, [&] { return listener.sendable > 0; }));
  EXPECT_EQ(sendFrames(*backend, {numbered(60, 1)}), 1U);
}

TEST_F(StreamBackendTest, LeavesAPeerThatIsOutOfStep) {
  connect();
  writeAll(peer.get(), FrameWriter().text("HTTP/1.1 400 Bad Request\r\n").frame);
  EXPECT_EQ(receiveFrame(*backend), std::nullopt);
  EXPECT_FALSE(backend->linkUp());
  ASSERT_EQ(log.size(), 1U);
  EXPECT_NE(log[0].find("out of step"), std::string::npos) << log[0];
}

TEST_F(StreamBackendTest, NamesAPeerThatIsNotThere) {
  auto created = StreamBackend::create(*loop, StreamNetwork{folder.path("missing")}, {});
  ASSERT_FALSE(created);
  EXPECT_EQ(created.error().code, ErrorCode::kNotFound);
  EXPECT_NE(created.error().message.find("missing"), std::string::npos);
  EXPECT_FALSE(StreamBackend::create(*loop, StreamNetwork{std::string(200, 'x')}, {}));
}

TEST_F(StreamBackendTest, SpeaksVpnkit) {
  std::thread vpnkit([&] {
    UniqueFd fd = server.accept();
    readExactly(fd.get(), 49);
    Frame greeting = FrameWriter().text("VMN3T").u32(0x16000000).frame;
    greeting.resize(49);
    writeAll(fd.get(), greeting);
    EXPECT_EQ(readExactly(fd.get(), 41)[0], std::byte{1});
    Frame reply = FrameWriter().u8(1).u16(0xdc05).u16(0xdc05).mac(test::kGuestMac).frame;
    reply.resize(258);
    writeAll(fd.get(), reply);
    // Echo: a frame is a little-endian length and its bytes.
    const Frame frame = readExactly(fd.get(), 2 + 300);
    EXPECT_EQ(frame[0], std::byte{300 & 0xff});
    EXPECT_EQ(frame[1], std::byte{300 >> 8});
    writeAll(fd.get(), frame);
    // Stays open until the frame was read.
    pollfd closed{fd.get(), POLLRDHUP, 0};
    ::poll(&closed, 1, 5000);
  });
  auto created = StreamBackend::create(*loop, VpnkitNetwork{path, "2b1b7e3c-7f4c-4b7a-9a55-0c1e5a1d2f00"}, {});
  ASSERT_TRUE(created) << created.error().message;
  backend = std::move(created).value();
  EXPECT_EQ(backend->properties().mac, test::kGuestMac);
  EXPECT_EQ(backend->properties().mtu, 1500);
  backend->setListener(&listener);
  backend->setReceiving(true);
  EXPECT_EQ(sendFrames(*backend, {numbered(300, 4)}), 1U);
  EXPECT_TRUE(runUntil(*loop, [&] { return listener.ready > 0; }));
  EXPECT_EQ(receiveFrame(*backend), numbered(300, 4));
  backend.reset();
  vpnkit.join();
}

}  // namespace
}  // namespace tshyve::net
