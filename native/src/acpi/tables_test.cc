#include "acpi/tables.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <spawn.h>
#include <sys/wait.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "acpi/bytes.h"
#include "acpi/dsdt.h"
#include "acpi/mp_table.h"
#include "boot/layout.h"

extern char** environ;

namespace tshyve::acpi {
namespace {

namespace fs = std::filesystem;

struct Machine {
  std::unique_ptr<GuestMemory> memory;
  std::uint64_t rsdp;
};

Machine describe(const TablesConfig& config) {
  auto memory = GuestMemory::create(layout::memoryExtents(config.memoryBytes), GuestMemory::Backing::kPrivate);
  EXPECT_TRUE(memory);
  auto rsdp = writeTables(**memory, config);
  EXPECT_TRUE(rsdp);
  return {std::move(*memory), *rsdp};
}

template <typename T>
T at(const Bytes& bytes, std::size_t offset) {
  T value;
  EXPECT_LE(offset + sizeof value, bytes.size());
  std::memcpy(&value, bytes.data() + offset, sizeof value);
  return value;
}

Bytes readBytes(const GuestMemory& memory, std::uint64_t address, std::uint64_t size) {
  Bytes bytes(size);
  EXPECT_TRUE(memory.readBytes(address, bytes));
  return bytes;
}

/// Follows root pointer, XSDT and FADT as a kernel does. @return tables by signature
std::map<std::string, Bytes> collect(const Machine& machine) {
  std::map<std::string, Bytes> tables;
  const auto take = [&](std::uint64_t address) {
    const auto length = machine.memory->read<std::uint32_t>(address + 4);
    EXPECT_TRUE(length);
    Bytes table = readBytes(*machine.memory, address, *length);
    EXPECT_EQ(checksum(table), 0) << "checksum of the table at " << std::hex << address;
    const std::string signature(reinterpret_cast<const char*>(table.data()), 4);
    return tables[signature] = table;
  };
  const Bytes rsdp = readBytes(*machine.memory, machine.rsdp, 36);
  EXPECT_EQ(checksum(rsdp), 0);
  EXPECT_EQ(checksum(std::span(rsdp).first(20)), 0);
  const Bytes xsdt = take(at<std::uint64_t>(rsdp, 24));
  for (std::size_t offset = 36; offset + 8 <= xsdt.size(); offset += 8) take(at<std::uint64_t>(xsdt, offset));
  take(at<std::uint64_t>(tables["FACP"], 140));
  return tables;
}

class AcpiTables : public testing::TestWithParam<TablesConfig> {};
INSTANTIATE_TEST_SUITE_P(Machines, AcpiTables,
                         testing::Values(TablesConfig{1, 64 * layout::kMiB, false},
                                         TablesConfig{2, 3 * layout::kGiB, true},
                                         TablesConfig{64, 512 * layout::kGiB, true}));

TEST_P(AcpiTables, LeadFromTheRootPointerToEveryTable) {
  const Machine machine = describe(GetParam());
  EXPECT_EQ(machine.rsdp, layout::kAcpiTables.start);
  const auto tables = collect(machine);
  std::vector<std::string> names;
  for (const auto& [name, table] : tables) names.push_back(name);
  EXPECT_EQ(names, (std::vector<std::string>{"APIC", "DSDT", "FACP", "MCFG", "XSDT"}));
}

TEST_P(AcpiTables, NameEveryCpuOnce) {
  const Machine machine = describe(GetParam());
  const Bytes madt = collect(machine).at("APIC");
  std::vector<unsigned> ids;
  unsigned ioApics = 0;
  for (std::size_t offset = 44; offset < madt.size(); offset += at<std::uint8_t>(madt, offset + 1)) {
    ASSERT_GT(at<std::uint8_t>(madt, offset + 1), 0);
    if (at<std::uint8_t>(madt, offset) == 0) ids.push_back(at<std::uint8_t>(madt, offset + 3));
    if (at<std::uint8_t>(madt, offset) == 1) {
      ioApics++;
      EXPECT_EQ(at<std::uint32_t>(madt, offset + 4), layout::kIoApic);
    }
  }
  ASSERT_EQ(ids.size(), GetParam().cpus);
  for (unsigned cpu = 0; cpu < ids.size(); cpu++) EXPECT_EQ(ids[cpu], cpu);
  EXPECT_EQ(ioApics, 1U);
}

TEST_P(AcpiTables, SayReducedHardwareWithOneControlPort) {
  const Bytes fadt = collect(describe(GetParam())).at("FACP");
  ASSERT_EQ(fadt.size(), 276U);
  EXPECT_EQ(at<std::uint32_t>(fadt, 112), 1U << 20 | 1U << 10 | 1U << 5 | 1U << 4);
  EXPECT_EQ(at<std::uint16_t>(fadt, 109) & 1U << 5, GetParam().rtc ? 0U : 1U << 5);
  for (const std::size_t registerOffset : {116U, 244U, 256U}) {
    EXPECT_EQ(at<std::uint8_t>(fadt, registerOffset), 1) << "system I/O";
    EXPECT_EQ(at<std::uint64_t>(fadt, registerOffset + 4), layout::kAcpiPort);
  }
  EXPECT_EQ(at<std::uint8_t>(fadt, 128), layout::kAcpiResetValue);
}

/// Runs a program of acpica-tools in a folder. @return its exit code and what it said
std::pair<int, std::string> run(const fs::path& folder, std::vector<std::string> arguments) {
  const std::string log = folder / "log";
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addchdir_np(&actions, folder.c_str());
  posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&actions, 1, log.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  posix_spawn_file_actions_adddup2(&actions, 1, 2);
  pid_t pid = -1;
  const int error = posix_spawnp(&pid, argv[0], &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  EXPECT_EQ(error, 0) << argv[0] << " is in the package acpica-tools: " << std::strerror(error);
  if (error != 0) return {-1, ""};
  int status = 0;
  EXPECT_EQ(::waitpid(pid, &status, 0), pid);
  std::ifstream stream(log);
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, std::string(std::istreambuf_iterator<char>(stream), {})};
}

class Folder {
 public:
  Folder() {
    std::string pattern = fs::temp_directory_path() / "tshyve-acpi-XXXXXX";
    path_ = ::mkdtemp(pattern.data());
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  ~Folder() { fs::remove_all(path_); }
  [[nodiscard]] const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

void writeFile(const fs::path& path, const Bytes& bytes) {
  std::ofstream stream(path, std::ios::binary);
  stream.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  EXPECT_TRUE(stream.flush());
}

std::string readFile(const fs::path& path) {
  std::ifstream stream(path, std::ios::binary);
  EXPECT_TRUE(stream) << path;
  return std::string(std::istreambuf_iterator<char>(stream), {});
}

TEST_P(AcpiTables, SurviveDisassemblyAndReassembly) {
  const auto tables = collect(describe(GetParam()));
  for (const auto& [name, table] : tables) {
    if (name == "XSDT") continue;
    const Folder folder;
    writeFile(folder.path() / "table.aml", table);
    const auto [disassembled, first] = run(folder.path(), {"iasl", "-d", "table.aml"});
    ASSERT_EQ(disassembled, 0) << first;
    EXPECT_EQ(first.find("Error"), std::string::npos) << first;
    fs::remove(folder.path() / "table.aml");
    // All warnings on; what remains must be none.
    const auto [assembled, second] = run(folder.path(), {"iasl", "-oa", "-p", "again", "-vw", "3144", "table.dsl"});
    ASSERT_EQ(assembled, 0) << second;
    EXPECT_NE(second.find(" 0 Errors, 0 Warnings"), std::string::npos) << second;
    const std::string again = readFile(folder.path() / "again.aml");
    // The compiler puts its own name and version at 28, which changes the checksum at 9.
    ASSERT_EQ(again.size(), table.size()) << name;
    for (std::size_t offset = 0; offset < again.size(); offset++) {
      if (offset == 9 || (offset >= 28 && offset < 36)) continue;
      ASSERT_EQ(static_cast<std::byte>(again[offset]), table[offset]) << name << " differs at " << offset;
    }
  }
}

TEST(AcpiDsdt, SaysWhatWasMeant) {
  const auto tables = collect(describe({4, 5 * layout::kGiB, true}));
  const Folder folder;
  writeFile(folder.path() / "dsdt.aml", tables.at("DSDT"));
  const auto [code, output] = run(folder.path(), {"iasl", "-d", "dsdt.aml"});
  ASSERT_EQ(code, 0) << output;
  const std::string source = readFile(folder.path() / "dsdt.dsl");
  for (const char* expected : {
           "Name (\\_S5, Package (0x04)",
           "Device (COM1)",
           "EisaId (\"PNP0501\")",
           "Device (RTC)",
           "\"ACPI0013\"",
           "Notify (\\_SB.PWRB, 0x80)",
           "ToUUID (\"e5c937d0-3553-4d7a-9117-ea4d19c3434d\")",
           "0x0000000180000000, // Range Minimum",  // 5 GiB of RAM end at 6 GiB
           "0x000000057FFFFFFF, // Range Maximum",
           "0xC0000000,         // Range Minimum",
           "0xE0000000,         // Address Base",
       }) {
    EXPECT_NE(source.find(expected), std::string::npos) << "no " << expected << " in\n" << source;
  }
}

TEST(AcpiDsdt, LeavesTheClockOutWhenThereIsNone) {
  const Bytes with = dsdtBody({1, 64 * layout::kMiB, true});
  const Bytes without = dsdtBody({1, 64 * layout::kMiB, false});
  EXPECT_GT(with.size(), without.size());
}

/// Runs ACPICA's own interpreter over the table: namespace, methods and all.
TEST(AcpiDsdt, IsInterpretedWithoutComplaint) {
  const auto tables = collect(describe({2, 1 * layout::kGiB, true}));
  const Folder folder;
  writeFile(folder.path() / "dsdt.aml", tables.at("DSDT"));
  for (const auto& [command, expected] : std::vector<std::pair<std::string, std::string>>{
           {"evaluate \\_S5", "[Integer] = 0000000000000005"},
           {"evaluate \\_SB.GED._EVT 16", "Received a Device Notify on [PWRB]"},
           {"evaluate \\_SB.PCI0._CRS", "[Buffer]"},
       }) {
    const auto [code, output] = run(folder.path(), {"acpiexec", "-b", command, "dsdt.aml"});
    EXPECT_EQ(code, 0) << output;
    EXPECT_NE(output.find(expected), std::string::npos) << command << " said\n" << output;
    EXPECT_EQ(output.find("ACPI Error"), std::string::npos) << output;
  }
}

TEST(AcpiTables, RefuseImpossibleMachines) {
  auto memory = GuestMemory::create(layout::memoryExtents(64 * layout::kMiB), GuestMemory::Backing::kPrivate);
  EXPECT_FALSE(writeTables(**memory, {0, 64 * layout::kMiB, false}));
  EXPECT_FALSE(writeTables(**memory, {65, 64 * layout::kMiB, false}));
  auto tiny = GuestMemory::create(layout::memoryExtents(64 * layout::kKiB), GuestMemory::Backing::kPrivate);
  EXPECT_FALSE(writeTables(**tiny, {1, 64 * layout::kKiB, false}));
}

TEST(MpTable, ListsCpusAndLines) {
  for (const std::uint32_t cpus : {1U, 2U, 64U}) {
    const Machine machine = describe({cpus, 64 * layout::kMiB, false});
    const Bytes pointer = readBytes(*machine.memory, layout::kMpTable.start, 16);
    EXPECT_EQ(std::memcmp(pointer.data(), "_MP_", 4), 0);
    EXPECT_EQ(checksum(pointer), 0);
    const auto address = at<std::uint32_t>(pointer, 4);
    const auto length = machine.memory->read<std::uint16_t>(address + 4);
    const Bytes table = readBytes(*machine.memory, address, *length);
    EXPECT_EQ(std::memcmp(table.data(), "PCMP", 4), 0);
    EXPECT_EQ(checksum(table), 0);
    // MP specification 1.4, table 4-3: entries of 20 bytes for processors, 8 for all others.
    std::map<unsigned, unsigned> count;
    std::size_t offset = 44;
    for (; offset < table.size(); offset += at<std::uint8_t>(table, offset) == 0 ? 20 : 8) {
      count[at<std::uint8_t>(table, offset)]++;
    }
    EXPECT_EQ(offset, table.size());
    EXPECT_EQ(count[0], cpus);
    EXPECT_EQ(count[3], 16U);
    EXPECT_EQ(at<std::uint16_t>(table, 34), count[0] + count[1] + count[2] + count[3] + count[4]);
    EXPECT_LE(16U + table.size(), layout::kMpTable.size);
  }
}

}  // namespace
}  // namespace tshyve::acpi
