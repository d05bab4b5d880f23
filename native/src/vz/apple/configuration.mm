#include "vz/apple/configuration.h"

#include "vz/apple/convert.h"
#include "vz/apple/vmnet.h"

namespace tshyve::vz {
namespace {

Result<VZBootLoader*> makeBootLoader(const Plan& plan, const Resources& resources) {
  if (const auto* linux_ = std::get_if<LinuxPlan>(&plan.boot)) {
    VZLinuxBootLoader* const loader = [[VZLinuxBootLoader alloc] initWithKernelURL:toFileURL(resources.kernelImage)];
    loader.commandLine = toNSString(linux_->commandLine);
    if (!linux_->initrd.empty()) loader.initialRamdiskURL = toFileURL(linux_->initrd);
    return loader;
  }
  if (@available(macOS 13.0, *)) {
    const std::string& path = std::get<EfiBoot>(plan.boot).variableStore;
    NSURL* const url = toFileURL(path);
    VZEFIVariableStore* store = nil;
    if ([NSFileManager.defaultManager fileExistsAtPath:toNSString(path)]) {
      store = [[VZEFIVariableStore alloc] initWithURL:url];
    } else {
      NSError* error = nil;
      store = [[VZEFIVariableStore alloc] initCreatingVariableStoreAtURL:url options:0 error:&error];
      if (store == nil) return toError("cannot make the firmware's variables " + path, error);
    }
    VZEFIBootLoader* const loader = [[VZEFIBootLoader alloc] init];
    loader.variableStore = store;
    return loader;
  }
  return Error{ErrorCode::kUnsupported, "this macOS has no firmware for machines"};
}

Result<VZPlatformConfiguration*> makePlatform(const Plan& plan, const Resources& resources) {
  VZGenericPlatformConfiguration* const platform = [[VZGenericPlatformConfiguration alloc] init];
  if (@available(macOS 13.0, *)) {
    if (plan.machineIdentifier && !resources.identifier.empty()) {
      NSData* const data = [NSData dataWithBytes:resources.identifier.data() length:resources.identifier.size()];
      VZGenericMachineIdentifier* const identifier =
          [[VZGenericMachineIdentifier alloc] initWithDataRepresentation:data];
      if (identifier == nil) {
        return Error{ErrorCode::kCorrupt, "the identifier of the saved machine is damaged: give the saved state up"};
      }
      platform.machineIdentifier = identifier;
    }
  }
  if (@available(macOS 15.0, *)) {
    if (plan.nestedVirtualization) platform.nestedVirtualizationEnabled = YES;
  }
  return platform;
}

VZDiskImageCachingMode cachingMode(DiskCaching caching) {
  switch (caching) {
    case DiskCaching::kAutomatic:
      return VZDiskImageCachingModeAutomatic;
    case DiskCaching::kCached:
      return VZDiskImageCachingModeCached;
    case DiskCaching::kUncached:
      return VZDiskImageCachingModeUncached;
  }
  return VZDiskImageCachingModeCached;
}

VZDiskImageSynchronizationMode synchronizationMode(DiskSync sync) {
  switch (sync) {
    case DiskSync::kFull:
      return VZDiskImageSynchronizationModeFull;
    case DiskSync::kFsync:
      return VZDiskImageSynchronizationModeFsync;
    case DiskSync::kNone:
      return VZDiskImageSynchronizationModeNone;
  }
  return VZDiskImageSynchronizationModeFull;
}

Result<VZStorageDeviceConfiguration*> makeDisk(const DiskPlan& disk) {
  NSError* error = nil;
  VZDiskImageStorageDeviceAttachment* const attachment =
      [[VZDiskImageStorageDeviceAttachment alloc] initWithURL:toFileURL(disk.path)
                                                     readOnly:disk.readOnly
                                                  cachingMode:cachingMode(disk.caching)
                                          synchronizationMode:synchronizationMode(disk.sync)
                                                        error:&error];
  if (attachment == nil) return toError("cannot open the disk " + disk.path, error);
  VZVirtioBlockDeviceConfiguration* const device =
      [[VZVirtioBlockDeviceConfiguration alloc] initWithAttachment:attachment];
  if (@available(macOS 12.3, *)) {
    if (!disk.identifier.empty()) device.blockDeviceIdentifier = toNSString(disk.identifier);
  }
  return device;
}

NSFileHandle* fileHandle(int fd) {
  return fd < 0 ? nil : [[NSFileHandle alloc] initWithFileDescriptor:fd closeOnDealloc:NO];
}

Result<VZNetworkDeviceAttachment*> makeBridge(const std::string& name) {
  for (VZBridgedNetworkInterface* candidate in VZBridgedNetworkInterface.networkInterfaces) {
    if (toString(candidate.identifier) == name) {
      return [[VZBridgedNetworkDeviceAttachment alloc] initWithInterface:candidate];
    }
  }
  return Error{ErrorCode::kNotFound, "the interface " + name + " is gone"};
}

Result<VZNetworkDeviceAttachment*> makeAttachment(const NetworkPlan& network, int socket) {
  switch (network.kind) {
    case NetworkKind::kNat:
      return [[VZNATNetworkDeviceAttachment alloc] init];
    case NetworkKind::kBridged:
      return makeBridge(network.interfaceName);
    case NetworkKind::kFileHandle:
      return [[VZFileHandleNetworkDeviceAttachment alloc] initWithFileHandle:fileHandle(socket)];
    case NetworkKind::kVmnetShared:
      return makeVmnetAttachment(false);
    case NetworkKind::kVmnetHost:
      return makeVmnetAttachment(true);
  }
  return Error{ErrorCode::kUnsupported, "an unknown kind of network"};
}

Result<VZNetworkDeviceConfiguration*> makeNetwork(const NetworkPlan& network, int socket) {
  VZMACAddress* const mac = [[VZMACAddress alloc] initWithString:toNSString(network.mac)];
  if (mac == nil) return Error{ErrorCode::kInvalidArgument, "macOS refuses the MAC address " + network.mac};
  TSHYVE_TRY(VZNetworkDeviceAttachment* const attachment, makeAttachment(network, socket));
  VZVirtioNetworkDeviceConfiguration* const device = [[VZVirtioNetworkDeviceConfiguration alloc] init];
  device.MACAddress = mac;
  device.attachment = attachment;
  return device;
}

Result<VZSerialPortConfiguration*> makeSerialPort(const SerialPlan& port, const Resources::SerialEnds& ends) {
  VZVirtioConsoleDeviceSerialPortConfiguration* const device =
      [[VZVirtioConsoleDeviceSerialPortConfiguration alloc] init];
  if (port.kind == SerialKind::kFile) {
    NSError* error = nil;
    VZFileSerialPortAttachment* const attachment = [[VZFileSerialPortAttachment alloc] initWithURL:toFileURL(port.path)
                                                                                            append:YES
                                                                                             error:&error];
    if (attachment == nil) return toError("cannot write the guest's output to " + port.path, error);
    device.attachment = attachment;
  } else {
    device.attachment = [[VZFileHandleSerialPortAttachment alloc] initWithFileHandleForReading:fileHandle(ends.read)
                                                                          fileHandleForWriting:fileHandle(ends.write)];
  }
  return device;
}

Result<VZDirectorySharingDeviceConfiguration*> makeShare(const SharePlan& share) {
  VZSharedDirectory* const directory = [[VZSharedDirectory alloc] initWithURL:toFileURL(share.directory)
                                                                     readOnly:share.readOnly];
  VZVirtioFileSystemDeviceConfiguration* const device =
      [[VZVirtioFileSystemDeviceConfiguration alloc] initWithTag:toNSString(share.tag)];
  device.share = [[VZSingleDirectoryShare alloc] initWithDirectory:directory];
  return device;
}

Result<VZDirectorySharingDeviceConfiguration*> makeRosetta(const std::string& tag) {
#if defined(__arm64__)
  if (@available(macOS 13.0, *)) {
    NSError* error = nil;
    VZLinuxRosettaDirectoryShare* const rosetta = [[VZLinuxRosettaDirectoryShare alloc] initWithError:&error];
    if (rosetta == nil) return toError("cannot share Rosetta with the guest", error);
    VZVirtioFileSystemDeviceConfiguration* const device =
        [[VZVirtioFileSystemDeviceConfiguration alloc] initWithTag:toNSString(tag)];
    device.share = rosetta;
    return device;
  }
#endif
  return Error{ErrorCode::kUnsupported, "there is no Rosetta for the share \"" + tag + "\" here"};
}

Result<void> addDevices(VZVirtualMachineConfiguration* configuration, const Plan& plan, const Resources& resources) {
  NSMutableArray<VZStorageDeviceConfiguration*>* const disks = [NSMutableArray array];
  for (const DiskPlan& disk : plan.disks) {
    TSHYVE_TRY(VZStorageDeviceConfiguration* const device, makeDisk(disk));
    [disks addObject:device];
  }
  configuration.storageDevices = disks;

  NSMutableArray<VZNetworkDeviceConfiguration*>* const networks = [NSMutableArray array];
  for (std::size_t i = 0; i < plan.networks.size(); ++i) {
    TSHYVE_TRY(VZNetworkDeviceConfiguration* const device, makeNetwork(plan.networks[i], resources.sockets[i]));
    [networks addObject:device];
  }
  configuration.networkDevices = networks;

  NSMutableArray<VZSerialPortConfiguration*>* const ports = [NSMutableArray array];
  for (std::size_t i = 0; i < plan.serialPorts.size(); ++i) {
    TSHYVE_TRY(VZSerialPortConfiguration* const device, makeSerialPort(plan.serialPorts[i], resources.serialPorts[i]));
    [ports addObject:device];
  }
  configuration.serialPorts = ports;

  NSMutableArray<VZDirectorySharingDeviceConfiguration*>* const shares = [NSMutableArray array];
  for (const SharePlan& share : plan.shares) {
    TSHYVE_TRY(VZDirectorySharingDeviceConfiguration* const device, makeShare(share));
    [shares addObject:device];
  }
  if (!plan.rosettaTag.empty()) {
    TSHYVE_TRY(VZDirectorySharingDeviceConfiguration* const device, makeRosetta(plan.rosettaTag));
    [shares addObject:device];
  }
  configuration.directorySharingDevices = shares;

  if (plan.entropy) configuration.entropyDevices = @[ [[VZVirtioEntropyDeviceConfiguration alloc] init] ];
  if (plan.balloon) {
    configuration.memoryBalloonDevices = @[ [[VZVirtioTraditionalMemoryBalloonDeviceConfiguration alloc] init] ];
  }
  if (plan.socketDevice) configuration.socketDevices = @[ [[VZVirtioSocketDeviceConfiguration alloc] init] ];
  return {};
}

}  // namespace

Result<VZVirtualMachineConfiguration*> makeConfiguration(const Plan& plan, const Resources& resources) {
  VZVirtualMachineConfiguration* const configuration = [[VZVirtualMachineConfiguration alloc] init];
  configuration.CPUCount = plan.cpus;
  configuration.memorySize = plan.memoryBytes;
  TSHYVE_TRY(configuration.bootLoader, makeBootLoader(plan, resources));
  TSHYVE_TRY(configuration.platform, makePlatform(plan, resources));
  TSHYVE_CHECK(addDevices(configuration, plan, resources));
  NSError* error = nil;
  if (![configuration validateWithError:&error]) return toError("macOS refuses the machine", error);
  return configuration;
}

}  // namespace tshyve::vz
