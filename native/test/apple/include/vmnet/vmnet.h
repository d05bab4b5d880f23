#pragma once

// Networks of one's own, since macOS 26 (developer.apple.com/documentation/vmnet).

#include <Availability.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
typedef enum : uint32_t {
  VMNET_SUCCESS = 1000,
} vmnet_return_t TSHYVE_SINCE(10.10);
typedef enum : uint32_t {
  VMNET_HOST_MODE = 1000,
  VMNET_SHARED_MODE = 1001,
} vmnet_mode_t TSHYVE_SINCE(10.10);
typedef struct vmnet_network_configuration* vmnet_network_configuration_ref;
typedef struct vmnet_network* vmnet_network_ref;
vmnet_network_configuration_ref _Nullable vmnet_network_configuration_create(vmnet_mode_t mode,
                                                                             vmnet_return_t* _Nonnull status)
    TSHYVE_SINCE(26.0);
vmnet_network_ref _Nullable vmnet_network_create(vmnet_network_configuration_ref _Nonnull configuration,
                                                 vmnet_return_t* _Nonnull status) TSHYVE_SINCE(26.0);
#ifdef __cplusplus
}
#endif
