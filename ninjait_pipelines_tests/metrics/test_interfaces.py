"""Bytes count once: on the interface through which they leave the device, whatever is stacked on it."""

import pytest

from ninjait_pipelines.metrics.interfaces import LEFT_OUT, is_left_out, patterns_of

# By system, as their fleets send them.
WAYS_OUT = """
eth0 eth12 eno1 ens192 enp4s0f0np0 enp0s31f6 enx00e04c680001 enP2p1s0 em1 em2 p2p1 p1p2 ib0 ibs2 wlan0 wlp3s0
wlx00c0ca wwan0 wwp0s20f0u3 usb0 rmnet_data0 ccmni0 venet0 lan1 wan sw1p1 swp49 encf500 enc9a0 ap0 host0 net0 e1000g0
hme0 en0 en1 en7 igb0 ix1 ixl0 bge0 re0 vtnet0 vmx0 hn0 ena0 mce0 cxl0 axgbe0 xn0 mlxen0 fxp0 dc0 alc0 ue0
end0 eno1np0 ether1 sfp-sfpplus1 mlan0 wlan0-1 lan0 ge-0/0/1 GigabitEthernet0/1
Ethernet|Ethernet 2|Wi-Fi|Wi-Fi 2|WiFi|Local Area Connection|Local Area Connection* 1|LAN-Verbindung|LAN 2.5|
Ethernet 2.5|Connexion réseau 2|本地连接* 1|Ethernet 👩‍💻|イーサネット|Red de área local|Conexión de área local* 10|
Cellular|Mobilfunk|Intel[R] Ethernet Connection [7] I219-LM|Realtek PCIe 2.5GbE Family Controller|
Intel(R) Wi-Fi 6 AX201 160MHz|Microsoft Hyper-V Network Adapter|Microsoft Hyper-V Network Adapter _2|
vmxnet3 Ethernet Adapter|Red Hat VirtIO Ethernet Adapter|ASIX AX88179 USB 3.0 to Gigabit Ethernet Adapter|
Amazon Elastic Network Adapter|AWS PV Network Device _0|Surface Ethernet Adapter|Citrix PV Network Adapter|
Mellanox ConnectX-3 Ethernet Adapter|MediaTek Wi-Fi 6E MT7922 [RZ616] 160MHz Wireless LAN Card|
Remote NDIS based Internet Sharing Device|
Bluetooth Device [Personal Area Network]|Broadcom NetXtreme Gigabit Ethernet _4|
"""
STACKED = """
lo lo0 lo1 bond0 bond1 bond1.20 team0 team_lan lagg0 br0 br1 br-5f2a0c br-lan bridge0 bridge100 virbr0 virbr0-nic
vmbr0 fwbr100i0 fwpr100p0 fwln100i0 ovs-system vlan20 Vlan20 vlan.10 eth0.20 eno1.5 enp4s0f0np0.4094 ens18.100 wan.7
lan1.10 igb0.30 ib0.8001 br0.2 macvlan0 macvtap0 docker0 docker_gwbridge podman0 veth1a2b3c4 vethWEB@if2 epair0a cni0
cni-podman0 flannel.1 cali12ab34cd cilium_host lxc_health lxdbr0 vnet3 kube-ipvs0 kube-bridge nodelocaldns weave
vxlan.calico vboxnet0 vmnet8 vmenet0 tun0 tun tunl0 tap0 tap wg0 tailscale0 zt5u4w7xyz ppp0 ipsec0 utun3 gif0 stf0
sit0 gre0 gretap0 erspan0 ip6tnl0 ip6gre0 ip_vti0 ovpns1 dummy0 ifb0 nlmon0 pflog0 pfsync0 enc0 awdl0 llw0 anpi1
isatap.{7B1C0D3E-0000} isatap.home.lan LO0 Docker0 wg-mullvad tun_wg0 pppoe-wan pppoe0 vti0 xfrm0 l2tp0 nordlynx
NordLynx CloudflareWARP cscotun0 nebula1 gpd0 incusbr0 genev_sys_6081 cbr0 xenbr0 qvs0 shim-br0 switch0 hassio dind0
azv12ab34 eni12ab34cd gke12ab34 tunsnx proton0 tinc0 ham0 eth0.100@eth0 eth0.100.200
igb0_vlan10 nerdctl0 antrea-gw0 ovn-k8s-mp0 br_dmz br_vlan20 ipvl0 wg_home tun_vpn bat0 xapi1 vhost0
brq7f3a21c0-9e qbr7f3a21c0-9e qvb7f3a21c0-9e qvo7f3a21c0-9e tap7f3a21c0-9e tapd3a21c07-9e
NIC Team|NIC Team 1|LBFO Team|Team 1|Software Loopback Interface 1|Ethernet (Kernel Debugger)|
Microsoft Wi-Fi Direct Virtual Adapter|Microsoft Wi-Fi Direct Virtual Adapter _2|vEthernet [Default Switch]|
Microsoft Hosted Network Virtual Adapter|Microsoft Virtual WiFi Miniport Adapter|Microsoft KM-TEST Loopback Adapter|
Microsoft Kernel Debug Network Adapter|TEAM #1|Team #0 - Intel[R] Ethernet|HP Network Team #1|BASP Virtual Adapter|
Intel[R] Advanced Network Services Virtual Adapter|SonicWall VPN Adapter|SonicWALL Virtual NIC|Citrix Virtual Adapter|
Sophos SSL VPN Adapter|Zscaler Network Adapter|ExpressVPN TAP Adapter|RAS Async Adapter|
Microsoft Teredo Tunneling Adapter|F5 Networks VPN Adapter|
Loopback Pseudo-Interface 1|Loopback-Pseudo-Interface 1|Npcap Loopback Adapter|Teredo Tunneling Pseudo-Interface|
vEthernet (Default Switch)|vEthernet (WSL (Hyper-V firewall))|Hyper-V Virtual Ethernet Adapter|
Hyper-V Virtual Switch Extension Adapter|Microsoft Network Adapter Multiplexor Driver|Microsoft ISATAP Adapter _2|
6TO4 Adapter|Microsoft IP-HTTPS Platform Adapter|WAN Miniport [IPv6]|WAN Miniport (Network Monitor)|
TAP-Windows Adapter V9|Wintun Userspace Tunnel|WireGuard Tunnel|Ethernet-QoS Packet Scheduler-0000|
Ethernet 2-WFP 802.3 MAC Layer LightWeight Filter-0000|Wi-Fi-Native WiFi Filter Driver-0000|
Ethernet-WFP Native MAC Layer LightWeight Filter-0000|Ethernet-Npcap Packet Driver (NPCAP)-0000|
Wi-Fi-Virtual WiFi Filter Driver-0000|Ethernet-VirtualBox NDIS Light-Weight Filter-0000|
VirtualBox Host-Only Ethernet Adapter|VMware Network Adapter VMnet8|VMware Virtual Ethernet Adapter for VMnet1|
ZeroTier One [8056c2e21c000001]|ZeroTier Virtual Port|Tailscale Tunnel|Mullvad Tunnel|NordLynx Tunnel|
Cloudflare WARP Interface Tunnel|PANGP Virtual Ethernet Adapter Secure|Fortinet SSL VPN Virtual Ethernet Adapter|
Fortinet Virtual Ethernet Adapter [NDIS 6.30]|Cisco AnyConnect Virtual Miniport Adapter for Windows x64|
Juniper Networks Virtual Adapter|Check Point Virtual Network Adapter For Endpoint VPN Client|Network Bridge|
Network Bridge 2|MAC Bridge Miniport|Microsoft Hyper-V Network Switch Default Miniport|Ethernet - VLAN 20|
Intel[R] Ethernet Connection I219-LM - VLAN : VLAN20|TEAM : Team #0|
"""


def names(text: str) -> list[str]:
    """Names with spaces stand in lines that end in a bar."""
    return [
        name for line in text.strip().split("\n") for name in (line[:-1].split("|") if "|" in line else line.split())
    ]


@pytest.mark.parametrize("interface", [*names(WAYS_OUT), "", "x" * 255])
def test_no_way_out_of_a_device_is_ever_left_out(interface: str) -> None:
    """A pattern for VLANs took "Realtek PCIe 2.5GbE" for one while this list was made."""
    assert not is_left_out(interface)


@pytest.mark.parametrize("interface", names(STACKED))
def test_what_carries_another_interface_s_bytes_is_left_out(interface: str) -> None:
    """A bond, a bridge and a VLAN over one port showed 240,000 bytes for 60,000."""
    assert is_left_out(interface)


def test_the_list_is_one_setting() -> None:
    assert patterns_of(None) == patterns_of("") == LEFT_OUT
    assert patterns_of(" lo, docker* ,,lo*pback *") == ("lo", "docker*", "lo*pback *")
    mine = patterns_of("lo,docker*,loopback *")
    assert [is_left_out(one, mine) for one in ("lo", "docker0", "Loopback Pseudo-Interface 1")] == [True, True, True]
    assert [is_left_out(one, mine) for one in ("br0", "bond0", "lo0", "docker 0")] == [False] * 4
    assert not is_left_out("lo", ())
