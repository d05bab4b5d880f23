#include "acpi/dsdt.h"

#include "acpi/aml.h"
#include "boot/layout.h"

namespace tshyve::acpi {
namespace {

/// What the guest must not give to others: configuration space and our own port.
Bytes motherboard() {
  return aml::device("MBRD",
                     {
                         aml::name("_HID", aml::eisaId("PNP0C02")),
                         aml::name("_UID", aml::integer(0)),
                         aml::name("_CRS", aml::resourceTemplate({
                                               aml::fixedMemory32(static_cast<std::uint32_t>(layout::kPciEcam.start),
                                                                  static_cast<std::uint32_t>(layout::kPciEcam.size)),
                                               aml::ioPorts(layout::kAcpiPort, 1),
                                           })),
                     });
}

/// Without it the line does not exist: reduced hardware has no legacy interrupt controller.
Bytes serialPort() {
  return aml::device("COM1", {
                                 aml::name("_HID", aml::eisaId("PNP0501")),
                                 aml::name("_UID", aml::integer(0)),
                                 aml::name("_DDN", aml::string("COM1")),
                                 aml::name("_CRS", aml::resourceTemplate({
                                                       aml::ioPorts(layout::kCom1Port, 8),
                                                       aml::edgeInterrupt(layout::kCom1Gsi),
                                                   })),
                             });
}

Bytes clock() {
  return aml::device("RTC", {
                                aml::name("_HID", aml::eisaId("PNP0B00")),
                                aml::name("_UID", aml::integer(0)),
                                aml::name("_CRS", aml::resourceTemplate({
                                                      aml::ioPorts(layout::kRtcPort, 2),
                                                      aml::edgeInterrupt(layout::kRtcGsi),
                                                  })),
                            });
}

/// The generic event device (ACPI 6.5, section 5.6.9) turns our interrupt into a press of the power button.
Bytes powerButton() {
  constexpr std::uint64_t kPressed = 0x80;  // ACPI 6.5, section 4.8.3.2.1
  return aml::sequence({
      aml::device("PWRB",
                  {
                      aml::name("_HID", aml::eisaId("PNP0C0C")),
                      aml::name("_UID", aml::integer(0)),
                  }),
      aml::device("GED",
                  {
                      aml::name("_HID", aml::string("ACPI0013")),
                      aml::name("_UID", aml::integer(0)),
                      aml::name("_CRS", aml::resourceTemplate({aml::edgeInterrupt(layout::kGenericEventGsi)})),
                      aml::method("_EVT", 1, true,
                                  {aml::ifTrue(aml::equal(aml::argument(0), aml::integer(layout::kGenericEventGsi)),
                                               {aml::notify("\\_SB.PWRB", kPressed)})}),
                  }),
  });
}

/// "Preserve boot configuration" (PCI firmware specification 3.2, section 4.6.5): we have placed the BARs, yet the
/// kernel is free to move them.
Bytes preserveBootConfiguration() {
  constexpr std::uint64_t kQuery = 0;
  constexpr std::uint64_t kPreserve = 5;
  const Bytes supported{std::byte{1U << kQuery | 1U << kPreserve}};
  return aml::method("_DSM", 4, true,
                     {
                         aml::ifTrue(aml::equal(aml::argument(0), aml::uuid("e5c937d0-3553-4d7a-9117-ea4d19c3434d")),
                                     {
                                         aml::ifTrue(aml::equal(aml::argument(2), aml::integer(kQuery)),
                                                     {aml::returns(aml::buffer(supported))}),
                                         aml::ifTrue(aml::equal(aml::argument(2), aml::integer(kPreserve)),
                                                     {aml::returns(aml::integer(0))}),
                                     }),
                         aml::returns(aml::buffer({std::byte{0}})),
                     });
}

/// One bus. No _PRT: its devices have message-signalled interrupts only.
Bytes pciBus(std::uint64_t memoryBytes) {
  constexpr layout::Range window32 = layout::kPciWindow32;
  const layout::Range window64 = layout::pciWindow64(memoryBytes);
  return aml::device("PCI0",
                     {
                         aml::name("_HID", aml::eisaId("PNP0A08")),
                         aml::name("_CID", aml::eisaId("PNP0A03")),
                         aml::name("_SEG", aml::integer(0)),
                         aml::name("_BBN", aml::integer(0)),
                         aml::name("_UID", aml::integer(0)),
                         aml::name("_CRS", aml::resourceTemplate({
                                               aml::busNumbers(0, 0),
                                               aml::ioPorts(layout::kPciConfigPort, 8),
                                               aml::ioWindow(0, layout::kPciConfigPort - 1),
                                               aml::ioWindow(layout::kPciConfigPort + 8, 0xffff),
                                               aml::memoryWindow32(static_cast<std::uint32_t>(window32.start),
                                                                   static_cast<std::uint32_t>(window32.end() - 1)),
                                               aml::memoryWindow64(window64.start, window64.end() - 1),
                                           })),
                         preserveBootConfiguration(),
                     });
}

}  // namespace

Bytes dsdtBody(const TablesConfig& config) {
  const Bytes powerOff = aml::package(
      {aml::integer(layout::kSleepTypeS5), aml::integer(layout::kSleepTypeS5), aml::integer(0), aml::integer(0)});
  return aml::sequence({
      aml::name("\\_S5", powerOff),
      aml::scope("\\_SB",
                 {
                     motherboard(),
                     serialPort(),
                     config.rtc ? clock() : Bytes{},
                     powerButton(),
                     pciBus(config.memoryBytes),
                 }),
  });
}

}  // namespace tshyve::acpi
