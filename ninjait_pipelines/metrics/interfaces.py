"""Which network interfaces count: those through which bytes leave the device, each byte once. Pure.

A bridge, bond, VLAN or tunnel carries the bytes of its underlying interface a second time, and bytes on loopback never
leave the device. Interfaces are left out by name: by the decoders, by our own agent, and by the roll-up, which still
has readings from before a pattern was added.
"""

import re
from collections.abc import Sequence
from fnmatch import translate
from functools import lru_cache

# Shell patterns, case-insensitive. A pattern without a space matches only names without one: interfaces of Linux, BSD
# and macOS never have a space, and `*.[0-9]` must not take a "Realtek 2.5" of Windows for a VLAN.
# Not listed, because bytes leave the device through them: eth, en, wl, wwan, usb, rmnet, ib, venet, and ap (an access
# point, which serves other devices).
LEFT_OUT = (
    # loopback
    *("lo", "lo[0-9]*", "loopback*", "loopback* *", "npcap loopback*", "software loopback *"),
    # bonds, bridges and switches over other interfaces
    *("bond*", "team*", "lagg*", "br[0-9]*", "br-*", "bridge*", "virbr*", "vmbr*", "fwbr*", "fwpr*", "fwln*", "ovs*"),
    *("br_*", "brq*", "qbr*", "cbr[0-9]*", "xenbr*", "xapi[0-9]*", "qvs[0-9]*", "shim-*", "switch[0-9]*", "hassio"),
    *("bat[0-9]*",),
    *("microsoft network adapter multiplexor*", "vethernet (*", "vethernet [[]*", "hyper-v virtual*", "vswitch (*"),
    *("microsoft hyper-v network switch*", "network bridge", "network bridge *", "mac bridge miniport*", "team : *"),
    *("team [0-9]*", "team #*", "nic team", "nic team *", "lbfo team*", "hp network team #*"),
    *("basp virtual adapter*", "* advanced network services virtual adapter*"),
    # VLANs
    *("vlan*", "*[0-9a-z].[0-9]", "*[0-9a-z].[0-9][0-9]", "*[0-9a-z].[0-9][0-9][0-9]"),
    *("*[0-9a-z].[0-9][0-9][0-9][0-9]", "*[0-9a-z].[0-9]*@*", "macvlan*", "macvtap*", "ipvlan*", "ipvl[0-9]*"),
    *("*[0-9]_vlan[0-9]*", "* - vlan *"),
    # containers and virtual machines
    *("docker*", "podman*", "veth*", "epair*", "cni*", "flannel*", "cali*", "cilium*", "lxc*", "lxdbr*", "vnet[0-9]*"),
    *("kube-*", "nodelocaldns", "weave*", "vxlan*", "genev*", "vboxnet*", "vmnet*", "vmenet*", "feth*"),
    *("azv[0-9a-f]*", "eni[0-9a-f]*", "gke[0-9a-f]*", "dind*", "nerdctl*", "antrea-*", "ovn-*"),
    *("qvb*", "qvo*", "tap[0-9a-f]*-*", "vhost[0-9]*"),
    *("incusbr*", "virtualbox host-only*", "vmware network adapter*", "vmware virtual ethernet adapter*"),
    # adapters that share another one's radio
    *("microsoft wi-fi direct virtual adapter*", "microsoft hosted network virtual adapter*"),
    *("microsoft virtual wifi miniport adapter*",),
    # tunnels
    *("tun", "tun[0-9l]*", "tap", "tap[0-9]*", "wg", "wg[0-9]*", "tailscale*", "zt[0-9a-z]*", "ppp[0-9]*", "ipsec*"),
    *("utun*", "gif[0-9]*", "stf[0-9]*", "sit[0-9]*", "gre[0-9]*", "gretap*", "erspan*", "ip6*", "ip_vti*", "ovpn*"),
    *("wg-*", "wg_*", "tun_*", "pppoe*", "vti[0-9]*", "xfrm[0-9]*", "l2tp[0-9]*", "nordlynx", "cscotun*"),
    *("cloudflarewarp", "tunsnx", "proton[0-9]*", "tinc*", "ham[0-9]*"),
    *("* vpn adapter*", "* vpn virtual *", "sonicwall virtual *"),
    *("citrix virtual adapter*", "zscaler network adapter*", "* tap adapter", "ras async adapter", "microsoft teredo*"),
    *("nebula[0-9]*", "gpd[0-9]*", "zerotier *", "tailscale *", "* tunnel", "pangp virtual *", "cisco anyconnect *"),
    *("fortinet ssl vpn *", "fortinet virtual *", "juniper networks virtual *", "check point virtual *"),
    *("tap-windows adapter*", "wintun *", "wireguard *", "openvpn *", "wan miniport*", "isatap*", "microsoft isatap*"),
    *("teredo*", "teredo* *", "6to4*", "6to4* *", "microsoft 6to4*", "microsoft ip-https*"),
    # capture, shaping, filter and debug interfaces
    *("microsoft kernel debug network adapter*", "ethernet (kernel debugger)", "microsoft km-test loopback*"),
    *("dummy*", "ifb[0-9]*", "nlmon*", "pflog*", "pfsync*", "enc0", "pktap*", "awdl*", "llw*", "anpi*"),
    *("*-qos packet scheduler*", "*-wfp *", "*-npcap *", "* filter-[0-9]*", "* filter driver-[0-9]*"),
)


def is_left_out(interface: str, patterns: Sequence[str] = LEFT_OUT) -> bool:
    """Whether the bytes of this interface are ignored."""
    without_space, with_space = _compiled(tuple(patterns))
    return bool((with_space if " " in interface else without_space).fullmatch(interface))


def patterns_of(setting: str | None) -> tuple[str, ...]:
    """The patterns of the setting INTERFACES_LEFT_OUT, comma-separated; the default list if it is not set."""
    return tuple(filter(None, map(str.strip, setting.split(",")))) if setting else LEFT_OUT


@lru_cache(maxsize=16)
def _compiled(patterns: tuple[str, ...]) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """One expression for names without a space, and one for names with a space."""
    parts = [[one for one in patterns if (" " in one) is spaced] for spaced in (False, True)]
    without, with_ = (re.compile("|".join(map(translate, some)) or r"(?!)", re.IGNORECASE) for some in parts)
    return without, with_
