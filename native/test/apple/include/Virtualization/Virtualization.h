#pragma once

// Of Virtualization.framework, what native/src/vz/apple uses, in our words after
// developer.apple.com/documentation/virtualization: names, types, nullability and the macOS that brought each.

#include <Foundation/Foundation.h>
#include <vmnet/vmnet.h>

#pragma clang assume_nonnull begin

// --- Configuration ---

TSHYVE_SINCE(11.0) @interface VZBootLoader : NSObject<NSCopying>
+ (instancetype)new TSHYVE_NOT_AVAILABLE;
- (instancetype)init TSHYVE_NOT_AVAILABLE;
@end
TSHYVE_SINCE(11.0) @interface VZLinuxBootLoader : VZBootLoader
- (instancetype)initWithKernelURL:(NSURL*)kernelURL TSHYVE_DESIGNATED;
@property(copy) NSURL* kernelURL;
@property(copy) NSString* commandLine;
@property(nullable, copy) NSURL* initialRamdiskURL;
@end

// NS_OPTIONS of C++: an integer, so that 0 is one.
typedef NSUInteger VZEFIVariableStoreInitializationOptions TSHYVE_SINCE(13.0);
enum TSHYVE_SINCE(13.0) : NSUInteger { VZEFIVariableStoreInitializationOptionAllowOverwrite = 1 };
TSHYVE_SINCE(13.0) @interface VZEFIVariableStore : NSObject
+ (instancetype)new TSHYVE_NOT_AVAILABLE;
- (instancetype)init TSHYVE_NOT_AVAILABLE;
- (instancetype)initWithURL:(NSURL*)URL;
- (nullable instancetype)initCreatingVariableStoreAtURL:(NSURL*)URL
                                                options:(VZEFIVariableStoreInitializationOptions)options
                                                  error:(NSError* _Nullable* _Nullable)error;
@end
TSHYVE_SINCE(13.0) @interface VZEFIBootLoader : VZBootLoader
- (instancetype)init TSHYVE_DESIGNATED;
@property(strong, nullable) VZEFIVariableStore* variableStore;
@end

TSHYVE_SINCE(12.0) @interface VZPlatformConfiguration : NSObject<NSCopying>
+ (instancetype)new TSHYVE_NOT_AVAILABLE;
- (instancetype)init TSHYVE_NOT_AVAILABLE;
@end
TSHYVE_SINCE(13.0) @interface VZGenericMachineIdentifier : NSObject<NSCopying>
- (instancetype)init;
- (nullable instancetype)initWithDataRepresentation:(NSData*)dataRepresentation;
@property(readonly, copy) NSData* dataRepresentation;
@end
TSHYVE_SINCE(12.0) @interface VZGenericPlatformConfiguration : VZPlatformConfiguration
- (instancetype)init TSHYVE_DESIGNATED;
@property(copy) VZGenericMachineIdentifier* machineIdentifier TSHYVE_SINCE(13.0);
@property(class, readonly, getter=isNestedVirtualizationSupported) BOOL nestedVirtualizationSupported TSHYVE_SINCE(15.0)
    ;
@property(readwrite, getter=isNestedVirtualizationEnabled) BOOL nestedVirtualizationEnabled TSHYVE_SINCE(15.0);
@end

// --- Disks ---

typedef enum : NSInteger {
  VZDiskImageCachingModeAutomatic = 0,
  VZDiskImageCachingModeUncached = 1,
  VZDiskImageCachingModeCached = 2,
} VZDiskImageCachingMode TSHYVE_SINCE(12.0);
typedef enum : NSInteger {
  VZDiskImageSynchronizationModeFull = 1,
  VZDiskImageSynchronizationModeFsync = 2,
  VZDiskImageSynchronizationModeNone = 3,
} VZDiskImageSynchronizationMode TSHYVE_SINCE(12.0);

TSHYVE_SINCE(11.0) @interface VZStorageDeviceAttachment : NSObject
+ (instancetype)new TSHYVE_NOT_AVAILABLE;
- (instancetype)init TSHYVE_NOT_AVAILABLE;
@end
TSHYVE_SINCE(11.0) @interface VZDiskImageStorageDeviceAttachment : VZStorageDeviceAttachment
- (nullable instancetype)initWithURL:(NSURL*)url
                            readOnly:(BOOL)readOnly
                               error:(NSError* _Nullable* _Nullable)error TSHYVE_DESIGNATED;
- (nullable instancetype)initWithURL:(NSURL*)url
                            readOnly:(BOOL)readOnly
                         cachingMode:(VZDiskImageCachingMode)cachingMode
                 synchronizationMode:(VZDiskImageSynchronizationMode)synchronizationMode
                               error:(NSError* _Nullable* _Nullable)error TSHYVE_DESIGNATED TSHYVE_SINCE(12.0);
@end
TSHYVE_SINCE(11.0) @interface VZStorageDeviceConfiguration : NSObject<NSCopying>
+ (instancetype)new TSHYVE_NOT_AVAILABLE;
- (instancetype)init TSHYVE_NOT_AVAILABLE;
@end
TSHYVE_SINCE(11.0) @interface VZVirtioBlockDeviceConfiguration : VZStorageDeviceConfiguration
- (instancetype)initWithAttachment:(VZStorageDeviceAttachment*)attachment TSHYVE_DESIGNATED;
@property(copy) NSString* blockDeviceIdentifier TSHYVE_SINCE(12.3);
@end

// --- Networks ---

TSHYVE_SINCE(11.0) @interface VZMACAddress : NSObject<NSCopying>
+ (instancetype)new TSHYVE_NOT_AVAILABLE;
- (instancetype)init TSHYVE_NOT_AVAILABLE;
- (nullable instancetype)initWithString:(NSString*)string;
@end
TSHYVE_SINCE(11.0) @interface VZNetworkDeviceAttachment : NSObject
+ (instancetype)new TSHYVE_NOT_AVAILABLE;
- (instancetype)init TSHYVE_NOT_AVAILABLE;
@end
TSHYVE_SINCE(11.0) @interface VZNATNetworkDeviceAttachment : VZNetworkDeviceAttachment
- (instancetype)init TSHYVE_DESIGNATED;
@end
TSHYVE_SINCE(11.0) @interface VZBridgedNetworkInterface : NSObject
+ (instancetype)new TSHYVE_NOT_AVAILABLE;
- (instancetype)init TSHYVE_NOT_AVAILABLE;
@property(class, readonly, copy) NSArray<VZBridgedNetworkInterface*>* networkInterfaces;
@property(readonly, copy) NSString* identifier;
@property(readonly, copy, nullable) NSString* localizedDisplayName;
@end
TSHYVE_SINCE(11.0) @interface VZBridgedNetworkDeviceAttachment : VZNetworkDeviceAttachment
- (instancetype)initWithInterface:(VZBridgedNetworkInterface*)interface TSHYVE_DESIGNATED;
@end
TSHYVE_SINCE(11.0) @interface VZFileHandleNetworkDeviceAttachment : VZNetworkDeviceAttachment
- (instancetype)initWithFileHandle:(NSFileHandle*)fileHandle TSHYVE_DESIGNATED;
@end
TSHYVE_SINCE(26.0) @interface VZVmnetNetworkDeviceAttachment : VZNetworkDeviceAttachment
- (instancetype)initWithNetwork:(vmnet_network_ref)network TSHYVE_DESIGNATED;
@end
TSHYVE_SINCE(11.0) @interface VZNetworkDeviceConfiguration : NSObject<NSCopying>
+ (instancetype)new TSHYVE_NOT_AVAILABLE;
- (instancetype)init TSHYVE_NOT_AVAILABLE;
@property(copy) VZMACAddress* MACAddress;
@property(strong, nullable) VZNetworkDeviceAttachment* attachment;
@end
TSHYVE_SINCE(11.0) @interface VZVirtioNetworkDeviceConfiguration : VZNetworkDeviceConfiguration
- (instancetype)init TSHYVE_DESIGNATED;
@end
TSHYVE_SINCE(12.0) @interface VZNetworkDevice : NSObject
+ (instancetype)new TSHYVE_NOT_AVAILABLE;
- (instancetype)init TSHYVE_NOT_AVAILABLE;
@end

// --- Serial ports ---

TSHYVE_SINCE(11.0) @interface VZSerialPortAttachment : NSObject
+ (instancetype)new TSHYVE_NOT_AVAILABLE;
- (instancetype)init TSHYVE_NOT_AVAILABLE;
@end
TSHYVE_SINCE(11.0) @interface VZFileSerialPortAttachment : VZSerialPortAttachment
- (nullable instancetype)initWithURL:(NSURL*)url
                              append:(BOOL)shouldAppend
                               error:(NSError* _Nullable* _Nullable)error TSHYVE_DESIGNATED;
@end
TSHYVE_SINCE(11.0) @interface VZFileHandleSerialPortAttachment : VZSerialPortAttachment
- (instancetype)initWithFileHandleForReading:(nullable NSFileHandle*)fileHandleForReading
                        fileHandleForWriting:(nullable NSFileHandle*)fileHandleForWriting TSHYVE_DESIGNATED;
@end
TSHYVE_SINCE(11.0) @interface VZSerialPortConfiguration : NSObject<NSCopying>
+ (instancetype)new TSHYVE_NOT_AVAILABLE;
- (instancetype)init TSHYVE_NOT_AVAILABLE;
@property(strong, nullable) VZSerialPortAttachment* attachment;
@end
TSHYVE_SINCE(11.0) @interface VZVirtioConsoleDeviceSerialPortConfiguration : VZSerialPortConfiguration
- (instancetype)init TSHYVE_DESIGNATED;
@end

// --- Folders ---

TSHYVE_SINCE(12.0) @interface VZSharedDirectory : NSObject
+ (instancetype)new TSHYVE_NOT_AVAILABLE;
- (instancetype)init TSHYVE_NOT_AVAILABLE;
- (instancetype)initWithURL:(NSURL*)url readOnly:(BOOL)readOnly TSHYVE_DESIGNATED;
@end
TSHYVE_SINCE(12.0) @interface VZDirectoryShare : NSObject
+ (instancetype)new TSHYVE_NOT_AVAILABLE;
- (instancetype)init TSHYVE_NOT_AVAILABLE;
@end
TSHYVE_SINCE(12.0) @interface VZSingleDirectoryShare : VZDirectoryShare
- (instancetype)initWithDirectory:(VZSharedDirectory*)directory TSHYVE_DESIGNATED;
@end
#if defined(__arm64__)
typedef enum : NSInteger {
  VZLinuxRosettaAvailabilityNotSupported,
  VZLinuxRosettaAvailabilityNotInstalled,
  VZLinuxRosettaAvailabilityInstalled,
} VZLinuxRosettaAvailability TSHYVE_SINCE(13.0);
TSHYVE_SINCE(13.0) @interface VZLinuxRosettaDirectoryShare : VZDirectoryShare
- (nullable instancetype)initWithError:(NSError* _Nullable* _Nullable)error TSHYVE_DESIGNATED;
@property(class, readonly) VZLinuxRosettaAvailability availability;
@end
#endif
TSHYVE_SINCE(12.0) @interface VZDirectorySharingDeviceConfiguration : NSObject<NSCopying>
+ (instancetype)new TSHYVE_NOT_AVAILABLE;
- (instancetype)init TSHYVE_NOT_AVAILABLE;
@end
TSHYVE_SINCE(12.0) @interface VZVirtioFileSystemDeviceConfiguration : VZDirectorySharingDeviceConfiguration
- (instancetype)initWithTag:(NSString*)tag TSHYVE_DESIGNATED;
@property(strong, nullable) VZDirectoryShare* share;
@end

// --- Other devices ---

TSHYVE_SINCE(11.0) @interface VZEntropyDeviceConfiguration : NSObject<NSCopying>
+ (instancetype)new TSHYVE_NOT_AVAILABLE;
- (instancetype)init TSHYVE_NOT_AVAILABLE;
@end
TSHYVE_SINCE(11.0) @interface VZVirtioEntropyDeviceConfiguration : VZEntropyDeviceConfiguration
- (instancetype)init TSHYVE_DESIGNATED;
@end

TSHYVE_SINCE(11.0) @interface VZMemoryBalloonDeviceConfiguration : NSObject<NSCopying>
+ (instancetype)new TSHYVE_NOT_AVAILABLE;
- (instancetype)init TSHYVE_NOT_AVAILABLE;
@end
TSHYVE_SINCE(11.0) @interface VZVirtioTraditionalMemoryBalloonDeviceConfiguration : VZMemoryBalloonDeviceConfiguration
- (instancetype)init TSHYVE_DESIGNATED;
@end
TSHYVE_SINCE(11.0) @interface VZMemoryBalloonDevice : NSObject
+ (instancetype)new TSHYVE_NOT_AVAILABLE;
- (instancetype)init TSHYVE_NOT_AVAILABLE;
@end
TSHYVE_SINCE(11.0) @interface VZVirtioTraditionalMemoryBalloonDevice : VZMemoryBalloonDevice
@property uint64_t targetVirtualMachineMemorySize;
@end

TSHYVE_SINCE(11.0) @interface VZSocketDeviceConfiguration : NSObject<NSCopying>
+ (instancetype)new TSHYVE_NOT_AVAILABLE;
- (instancetype)init TSHYVE_NOT_AVAILABLE;
@end
TSHYVE_SINCE(11.0) @interface VZVirtioSocketDeviceConfiguration : VZSocketDeviceConfiguration
- (instancetype)init TSHYVE_DESIGNATED;
@end
TSHYVE_SINCE(11.0) @interface VZSocketDevice : NSObject
+ (instancetype)new TSHYVE_NOT_AVAILABLE;
- (instancetype)init TSHYVE_NOT_AVAILABLE;
@end
TSHYVE_SINCE(11.0) @interface VZVirtioSocketConnection : NSObject
+ (instancetype)new TSHYVE_NOT_AVAILABLE;
- (instancetype)init TSHYVE_NOT_AVAILABLE;
@property(readonly) uint32_t destinationPort;
@property(readonly) uint32_t sourcePort;
@property(readonly) int fileDescriptor;
- (void)close;
@end
@protocol VZVirtioSocketListenerDelegate;
TSHYVE_SINCE(11.0) @interface VZVirtioSocketListener : NSObject
@property(readwrite, weak) id<VZVirtioSocketListenerDelegate> delegate;
@end
TSHYVE_SINCE(11.0) @interface VZVirtioSocketDevice : VZSocketDevice
- (void)setSocketListener:(VZVirtioSocketListener*)listener forPort:(uint32_t)port;
- (void)removeSocketListenerForPort:(uint32_t)port;
- (void)connectToPort:(uint32_t)port
    completionHandler:(void (^)(VZVirtioSocketConnection* _Nullable connection, NSError* _Nullable error))handler;
@end
@protocol VZVirtioSocketListenerDelegate <NSObject>
@optional
- (BOOL)listener:(VZVirtioSocketListener*)listener
    shouldAcceptNewConnection:(VZVirtioSocketConnection*)connection
             fromSocketDevice:(VZVirtioSocketDevice*)socketDevice;
@end

// --- The machine ---

TSHYVE_SINCE(11.0) @interface VZVirtualMachineConfiguration : NSObject<NSCopying>
@property(nullable, strong) VZBootLoader* bootLoader;
@property(readwrite) uint64_t memorySize;
@property(readwrite) NSUInteger CPUCount;
@property(strong) VZPlatformConfiguration* platform TSHYVE_SINCE(12.0);
@property(readwrite, copy) NSArray<VZDirectorySharingDeviceConfiguration*>* directorySharingDevices TSHYVE_SINCE(12.0);
@property(readwrite, copy) NSArray<VZEntropyDeviceConfiguration*>* entropyDevices;
@property(readwrite, copy) NSArray<VZMemoryBalloonDeviceConfiguration*>* memoryBalloonDevices;
@property(readwrite, copy) NSArray<VZNetworkDeviceConfiguration*>* networkDevices;
@property(readwrite, copy) NSArray<VZSerialPortConfiguration*>* serialPorts;
@property(readwrite, copy) NSArray<VZSocketDeviceConfiguration*>* socketDevices;
@property(readwrite, copy) NSArray<VZStorageDeviceConfiguration*>* storageDevices;
- (BOOL)validateWithError:(NSError* _Nullable* _Nullable)error;
#if defined(__arm64__)
- (BOOL)validateSaveRestoreSupportWithError:(NSError* _Nullable* _Nullable)error TSHYVE_SINCE(14.0);
#endif
@property(class, readonly) uint64_t minimumAllowedMemorySize;
@property(class, readonly) uint64_t maximumAllowedMemorySize;
@property(class, readonly) NSUInteger minimumAllowedCPUCount;
@property(class, readonly) NSUInteger maximumAllowedCPUCount;
@end

typedef enum : NSInteger {
  VZVirtualMachineStateStopped,
  VZVirtualMachineStateRunning,
  VZVirtualMachineStatePaused,
  VZVirtualMachineStateError,
  VZVirtualMachineStateStarting,
  VZVirtualMachineStatePausing,
  VZVirtualMachineStateResuming,
  VZVirtualMachineStateStopping TSHYVE_SINCE(12.0),
  VZVirtualMachineStateSaving TSHYVE_SINCE(14.0),
  VZVirtualMachineStateRestoring TSHYVE_SINCE(14.0),
} VZVirtualMachineState TSHYVE_SINCE(11.0);

@class VZVirtualMachine;
TSHYVE_SINCE(11.0) @protocol VZVirtualMachineDelegate<NSObject>
@optional
- (void)guestDidStopVirtualMachine:(VZVirtualMachine*)virtualMachine;
- (void)virtualMachine:(VZVirtualMachine*)virtualMachine didStopWithError:(NSError*)error;
- (void)virtualMachine:(VZVirtualMachine*)virtualMachine
                         networkDevice:(VZNetworkDevice*)networkDevice
    attachmentWasDisconnectedWithError:(NSError*)error TSHYVE_SINCE(12.0);
@end

TSHYVE_SINCE(11.0) @interface VZVirtualMachine : NSObject
+ (instancetype)new TSHYVE_NOT_AVAILABLE;
- (instancetype)init TSHYVE_NOT_AVAILABLE;
- (instancetype)initWithConfiguration:(VZVirtualMachineConfiguration*)configuration;
- (instancetype)initWithConfiguration:(VZVirtualMachineConfiguration*)configuration
                                queue:(dispatch_queue_t)queue TSHYVE_DESIGNATED;
@property(class, readonly, getter=isSupported) BOOL supported;
@property(readonly) VZVirtualMachineState state;
@property(nullable, weak) id<VZVirtualMachineDelegate> delegate;
@property(readonly) BOOL canStop TSHYVE_SINCE(12.0);
@property(readonly) BOOL canRequestStop;
@property(readonly, copy) NSArray<VZMemoryBalloonDevice*>* memoryBalloonDevices;
@property(readonly, copy) NSArray<VZSocketDevice*>* socketDevices;
- (void)startWithCompletionHandler:(void (^)(NSError* _Nullable errorOrNil))completionHandler;
- (void)stopWithCompletionHandler:(void (^)(NSError* _Nullable errorOrNil))completionHandler TSHYVE_SINCE(12.0);
- (void)pauseWithCompletionHandler:(void (^)(NSError* _Nullable errorOrNil))completionHandler;
- (void)resumeWithCompletionHandler:(void (^)(NSError* _Nullable errorOrNil))completionHandler;
#if defined(__arm64__)
- (void)restoreMachineStateFromURL:(NSURL*)saveFileURL
                 completionHandler:(void (^)(NSError* _Nullable errorOrNil))completionHandler TSHYVE_SINCE(14.0);
- (void)saveMachineStateToURL:(NSURL*)saveFileURL
            completionHandler:(void (^)(NSError* _Nullable errorOrNil))completionHandler TSHYVE_SINCE(14.0);
#endif
- (BOOL)requestStopWithError:(NSError* _Nullable* _Nullable)error;
@end

#pragma clang assume_nonnull end
