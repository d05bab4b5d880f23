#include "net/datagram_backend.h"

#include <gtest/gtest.h>
#include <sys/socket.h>

#include "base/testing/temporary_folder.h"
#include "net/testing/frames.h"
#include "net/unix_socket.h"

namespace tshyve::net {
namespace {

using test::Frame;
using test::receiveFrame;
using test::runUntil;
using test::sendFrames;

Frame numbered(std::size_t size, unsigned number) { return Frame(size, static_cast<std::byte>(number)); }

/// A peer that answers to the address of who sent last, as gvproxy and vmnet-helper do.
class Peer {
 public:
  explicit Peer(const std::string& path) : socket_(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0)) {
    const auto address = unixAddress(path);
    ::unlink(path.c_str());
    EXPECT_EQ(::bind(socket_.get(), reinterpret_cast<const sockaddr*>(&*address), sizeof *address), 0);
    const timeval limit{5, 0};
    ::setsockopt(socket_.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  }
  Frame receive() {
    Frame frame(70000);
    clientSize_ = sizeof client_;
    const ssize_t count =
        ::recvfrom(socket_.get(), frame.data(), frame.size(), 0, reinterpret_cast<sockaddr*>(&client_), &clientSize_);
    EXPECT_GE(count, 0);
    frame.resize(static_cast<std::size_t>(std::max<ssize_t>(count, 0)));
    return frame;
  }
  void send(const Frame& frame) {
    EXPECT_EQ(::sendto(socket_.get(), frame.data(), frame.size(), 0, reinterpret_cast<const sockaddr*>(&client_),
                       clientSize_),
              static_cast<ssize_t>(frame.size()));
  }

 private:
  UniqueFd socket_;
  sockaddr_un client_{};
  socklen_t clientSize_ = 0;
};

class DatagramBackendTest : public testing::Test {
 protected:
  void SetUp() override { loop = std::move(EventLoop::create("test")).value(); }
  void open(const DatagramNetwork& config, bool hello = false) {
    auto created = DatagramBackend::create(
        *loop, config, [this](std::string line) { log.push_back(std::move(line)); }, hello);
    ASSERT_TRUE(created) << created.error().message;
    backend = std::move(created).value();
    backend->setListener(&listener);
    backend->setReceiving(true);
  }
  TemporaryFolder folder;
  DatagramNetwork byPath{folder.path("peer"), folder.path("local"), -1};
  std::unique_ptr<EventLoop> loop;
  test::RecordingListener listener;
  std::vector<std::string> log;
  std::unique_ptr<DatagramBackend> backend;
};

TEST_F(DatagramBackendTest, WithoutAConnectionEitherEndMayComeAndGo) {
  DatagramNetwork config = byPath;
  config.connectionless = true;
  open(config);
  // Nobody is there yet: lost, as on a cable that is not plugged in.
  EXPECT_EQ(sendFrames(*backend, {numbered(60, 1)}), 1U);
  EXPECT_EQ(backend->counters().sendDropped, 1U);
  DatagramNetwork other{config.localPath, config.path, -1, true};
  for (unsigned round = 2; round < 4; round++) {
    auto peer = std::move(DatagramBackend::create(*loop, other, {})).value();
    test::RecordingListener peerListener;
    peer->setListener(&peerListener);
    peer->setReceiving(true);
    EXPECT_EQ(sendFrames(*backend, {numbered(60, round)}), 1U);
    EXPECT_EQ(receiveFrame(*peer), numbered(60, round));
    EXPECT_EQ(sendFrames(*peer, {numbered(70, round)}), 1U);
    EXPECT_EQ(receiveFrame(*backend), numbered(70, round));
  }
  EXPECT_EQ(sendFrames(*backend, {numbered(60, 9)}), 1U);
  EXPECT_EQ(backend->counters().sendDropped, 2U);
  EXPECT_TRUE(backend->linkUp());
}

TEST_F(DatagramBackendTest, WithoutAConnectionASlowPeerIsTriedAgain) {
  DatagramNetwork config = byPath;
  config.connectionless = true;
  Peer peer(byPath.path);
  open(config);
  std::size_t sent = 0;
  while (sendFrames(*backend, {numbered(60, 1)}) == 1U) sent++;
  EXPECT_GT(sent, 0U);
  EXPECT_EQ(backend->counters().sendDropped, 0U);
  for (std::size_t index = 0; index < sent; index++) EXPECT_EQ(peer.receive(), numbered(60, 1));
  runUntil(*loop, [&] { return listener.sendable > 0; });
  EXPECT_EQ(sendFrames(*backend, {numbered(60, 2)}), 1U);
  EXPECT_EQ(peer.receive(), numbered(60, 2));
}

TEST_F(DatagramBackendTest, SendsOneFrameADatagram) {
  Peer peer(byPath.path);
  open(byPath);
  EXPECT_EQ(sendFrames(*backend, {numbered(60, 1), numbered(65549, 2), numbered(61, 3)}), 3U);
  EXPECT_EQ(peer.receive(), numbered(60, 1));
  EXPECT_EQ(peer.receive(), numbered(65549, 2));
  EXPECT_EQ(peer.receive(), numbered(61, 3));
  peer.send(numbered(100, 4));
  peer.send(numbered(3, 5));    // shorter than any frame
  peer.send(numbered(101, 6));  // longer than the buffer
  peer.send(numbered(99, 7));
  ASSERT_TRUE(runUntil(*loop, [&] { return listener.ready > 0; }));
  EXPECT_EQ(receiveFrame(*backend, 100), numbered(100, 4));
  EXPECT_EQ(receiveFrame(*backend, 100), numbered(99, 7));
  EXPECT_EQ(receiveFrame(*backend), std::nullopt);
  EXPECT_EQ(backend->counters().receiveDropped, 2U);
  backend.reset();
  EXPECT_FALSE(std::filesystem::exists(byPath.localPath));
}

TEST_F(DatagramBackendTest, GreetsOnRequest) {
  Peer peer(byPath.path);
  open(byPath, true);
  EXPECT_EQ(peer.receive(), test::FrameWriter().text("VFKT").frame);
}

TEST_F(DatagramBackendTest, WaitsForASlowPeer) {
  Peer peer(byPath.path);
  open(byPath);
  unsigned sent = 0;
  while (sendFrames(*backend, {numbered(1000, sent & 0xff)}) == 1) sent++;
  ASSERT_GT(sent, 0U);
  EXPECT_EQ(listener.sendable, 0);
  for (unsigned index = 0; index < sent; index++) ASSERT_EQ(peer.receive(), numbered(1000, index & 0xff));
  EXPECT_TRUE(runUntil(*loop, [&] { return listener.sendable > 0; }));
  EXPECT_EQ(sendFrames(*backend, {numbered(60, 9)}), 1U);
  EXPECT_EQ(peer.receive(), numbered(60, 9));
}

TEST_F(DatagramBackendTest, ComesBackWhenThePeerDoes) {
  auto peer = std::make_unique<Peer>(byPath.path);
  open(byPath);
  peer.reset();
  std::filesystem::remove(byPath.path);
  EXPECT_EQ(sendFrames(*backend, {numbered(60, 1), numbered(60, 2)}), 2U);
  EXPECT_EQ(backend->counters().sendDropped, 2U);
  ASSERT_TRUE(runUntil(*loop, [&] { return listener.linkChanges == 1; }));
  EXPECT_FALSE(backend->linkUp());
  for (int round = 0; round < 10; round++) loop->runOnce(std::chrono::milliseconds(10));
  EXPECT_FALSE(backend->linkUp());
  peer = std::make_unique<Peer>(byPath.path);
  ASSERT_TRUE(runUntil(*loop, [&] { return listener.linkChanges == 2; }));
  EXPECT_EQ(sendFrames(*backend, {numbered(60, 3)}), 1U);
  EXPECT_EQ(peer->receive(), numbered(60, 3));
  peer->send(numbered(60, 4));
  ASSERT_TRUE(runUntil(*loop, [&] { return listener.ready > 0; }));
  EXPECT_EQ(receiveFrame(*backend), numbered(60, 4));
}

TEST_F(DatagramBackendTest, TakesASocketOfTheCallers) {
  int pair[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, pair), 0);
  UniqueFd ours(pair[0]);
  UniqueFd theirs(pair[1]);
  open({"", "", ours.get()});
  EXPECT_EQ(sendFrames(*backend, {numbered(60, 1)}), 1U);
  Frame frame(100);
  EXPECT_EQ(::recv(theirs.get(), frame.data(), frame.size(), 0), 60);
  theirs.reset();
  EXPECT_EQ(sendFrames(*backend, {numbered(60, 1)}), 1U);
  ASSERT_TRUE(runUntil(*loop, [&] { return listener.linkChanges == 1; }));
  // Nobody to come back: the descriptor leads nowhere any more.
  EXPECT_FALSE(backend->linkUp());
  EXPECT_EQ(sendFrames(*backend, {numbered(60, 1)}), 1U);
}

TEST_F(DatagramBackendTest, RefusesWhatCannotWork) {
  EXPECT_EQ(DatagramBackend::create(*loop, byPath, {}).error().code, ErrorCode::kNotFound);
  EXPECT_FALSE(std::filesystem::exists(byPath.localPath));
  Peer peer(byPath.path);
  Peer taken(byPath.localPath);
  EXPECT_EQ(DatagramBackend::create(*loop, byPath, {}).error().code, ErrorCode::kBusy);
  EXPECT_TRUE(std::filesystem::exists(byPath.localPath));
  int pair[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
  UniqueFd ours(pair[0]);
  UniqueFd theirs(pair[1]);
  EXPECT_EQ(DatagramBackend::create(*loop, {"", "", ours.get()}, {}).error().code, ErrorCode::kInvalidArgument);
}

}  // namespace
}  // namespace tshyve::net
