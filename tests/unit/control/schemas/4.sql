BEGIN TRANSACTION;
CREATE TABLE access_keys (
	access_key_id TEXT NOT NULL, 
	sealed_secret BLOB NOT NULL, 
	created_at_s FLOAT NOT NULL, 
	PRIMARY KEY (access_key_id)
);
INSERT INTO "access_keys" VALUES('AKIACG6H2WSKRSVKO3UY',X'6C14F96B1E11F3B866E94DA447DE4E35E16EB74E2EE2E04C6952A21E1A1EB0BC6F2224F697449F6E646EC4ADCE5E8D49176666A260EC615EA35B888DD4AEFB1A1F8E9C71',1.795496991262090683e+09);
CREATE TABLE carried_figures (
	subject TEXT NOT NULL, 
	packets BIGINT NOT NULL, 
	bytes BIGINT NOT NULL, 
	written_packets BIGINT NOT NULL, 
	written_bytes BIGINT NOT NULL, 
	PRIMARY KEY (subject)
);
INSERT INTO "carried_figures" VALUES('tms-837c7f9db212be46a',7,700,0,0);
INSERT INTO "carried_figures" VALUES('101 10.0.0.20 10.0.0.12',6,600,6,600);
CREATE TABLE ended_sessions (
	session_id TEXT NOT NULL, 
	sent_packets BIGINT NOT NULL, 
	sent_bytes BIGINT NOT NULL, 
	ended_at_s FLOAT NOT NULL, 
	PRIMARY KEY (session_id)
);
INSERT INTO "ended_sessions" VALUES('tms-9c1d13054a3d70e7c',5,500,1.79549699187356138225e+09);
CREATE TABLE filter_rules (
	rule_id TEXT NOT NULL, 
	filter_id TEXT NOT NULL, 
	direction TEXT NOT NULL, 
	number INTEGER NOT NULL, 
	action TEXT NOT NULL, 
	source TEXT NOT NULL, 
	destination TEXT NOT NULL, 
	protocol INTEGER, 
	source_port_first INTEGER, 
	source_port_last INTEGER, 
	destination_port_first INTEGER, 
	destination_port_last INTEGER, 
	description TEXT, 
	PRIMARY KEY (rule_id), 
	UNIQUE (filter_id, direction, number), 
	FOREIGN KEY(filter_id) REFERENCES filters (filter_id)
);
INSERT INTO "filter_rules" VALUES('tmfr-03529babf8feb8753','tmf-d14027c760da3af3b','ingress',10,'accept','10.0.0.0/8','0.0.0.0/0',6,NULL,NULL,22,22,'ssh');
CREATE TABLE filters (
	filter_id TEXT NOT NULL, 
	services TEXT NOT NULL, 
	description TEXT, 
	PRIMARY KEY (filter_id)
);
INSERT INTO "filters" VALUES('tmf-d14027c760da3af3b','amazon-dns',NULL);
CREATE TABLE hosts (
	host_id TEXT NOT NULL, 
	agent_version TEXT NOT NULL, 
	reported_at_s FLOAT NOT NULL, 
	PRIMARY KEY (host_id)
);
INSERT INTO "hosts" VALUES('host-1','test',1.79549699153128719322e+09);
CREATE TABLE idempotency_tokens (
	token_key TEXT NOT NULL, 
	fingerprint TEXT NOT NULL, 
	result TEXT NOT NULL, 
	created_at_s FLOAT NOT NULL, 
	PRIMARY KEY (token_key)
);
INSERT INTO "idempotency_tokens" VALUES('CreateTrafficMirrorFilter/once','296cfa9c63de6a4b35659f4d7e08c634a9ec63c2b772fd3ea6f6665b8f729a21','{"TrafficMirrorFilter":{"TrafficMirrorFilterId":"tmf-d14027c760da3af3b","Description":null,"IngressFilterRules":[],"EgressFilterRules":[],"NetworkServices":[],"Tags":[{"Key":"Name","Value":"ssh – all"}]},"ClientToken":"once"}',1.79549699171752405162e+09);
INSERT INTO "idempotency_tokens" VALUES('CreateTrafficMirrorFilterRule/5cf6f402-6820-4297-9533-ad5996dfaf9f','c450974ff63f1a637d12cbb1359a4ab3c5db94dcbbd1a0bc6e3369c731c50095','{"TrafficMirrorFilterRule":{"TrafficMirrorFilterRuleId":"tmfr-03529babf8feb8753","TrafficMirrorFilterId":"tmf-d14027c760da3af3b","TrafficDirection":"ingress","RuleNumber":10,"RuleAction":"accept","Protocol":6,"DestinationPortRange":{"FromPort":22,"ToPort":22},"SourcePortRange":null,"DestinationCidrBlock":"0.0.0.0/0","SourceCidrBlock":"10.0.0.0/8","Description":"ssh"},"ClientToken":"5cf6f402-6820-4297-9533-ad5996dfaf9f"}',1795496991.74195);
INSERT INTO "idempotency_tokens" VALUES('CreateTrafficMirrorTarget/5f9da2ad-a951-4172-94e8-306cc7b44c7c','f6030c5ce602651cd4c555411e7169133173a2aeeb842aab5117859be6328d2f','{"TrafficMirrorTarget":{"TrafficMirrorTargetId":"tmt-48302a1e6945d63a0","Description":"collector","OwnerId":"769163648806","Tags":[],"Type":"network-interface","NetworkInterfaceId":"eni-f67e3c0994703915a"},"ClientToken":"5f9da2ad-a951-4172-94e8-306cc7b44c7c"}',1.79549699175479626658e+09);
INSERT INTO "idempotency_tokens" VALUES('CreateTrafficMirrorTarget/10537eba-69f4-4a4e-8899-fb21589c3efb','e2115de976b7273de53ade84b008bc6be7372818d10314baf568b0bd135ab81e','{"TrafficMirrorTarget":{"TrafficMirrorTargetId":"tmt-eee147277f6233623","Description":null,"OwnerId":"769163648806","Tags":[],"Type":"network-load-balancer","NetworkLoadBalancerArn":"arn:aws:elasticloadbalancing:us-east-1:111122223333:loadbalancer/net/NLB/7cdec873EXAMPLE"},"ClientToken":"10537eba-69f4-4a4e-8899-fb21589c3efb"}',1.79549699176232719416e+09);
INSERT INTO "idempotency_tokens" VALUES('CreateTrafficMirrorTarget/62d3d653-3eb7-4308-bbd3-7cfd22245916','d21cf90105fa961ab47e1ccf12c2d8ffdc8614bfc8ea6723b7411f354bfac23e','{"TrafficMirrorTarget":{"TrafficMirrorTargetId":"tmt-9236b39759e4ad1c3","Description":null,"OwnerId":"769163648806","Tags":[],"Type":"gateway-load-balancer-endpoint","GatewayLoadBalancerEndpointId":"vpce-0123456789abcdef0"},"ClientToken":"62d3d653-3eb7-4308-bbd3-7cfd22245916"}',1.79549699176825499529e+09);
INSERT INTO "idempotency_tokens" VALUES('CreateTrafficMirrorSession/baf197a9-1e17-4d55-a77e-a91305b09904','9d1f81d6cfaa48f744b857734b1af5088030e088395d040d4985ace0145c73ea','{"TrafficMirrorSession":{"TrafficMirrorSessionId":"tms-837c7f9db212be46a","TrafficMirrorTargetId":"tmt-48302a1e6945d63a0","TrafficMirrorFilterId":"tmf-d14027c760da3af3b","NetworkInterfaceId":"eni-f04af19e32a26ab6a","OwnerId":"769163648806","PacketLength":128,"SessionNumber":1,"VirtualNetworkId":101,"Description":"kept","Tags":[{"Key":"pktmirror:packets-per-second","Value":"1000"}]},"ClientToken":"baf197a9-1e17-4d55-a77e-a91305b09904"}',1.79549699177477836611e+09);
INSERT INTO "idempotency_tokens" VALUES('CreateTrafficMirrorSession/6e1a1953-d5ba-46bc-881e-b829dd24abde','09d7cd9834734dc2f3c7cb901f5b526f28aaa7decd730c5e9590cd1137b7c883','{"TrafficMirrorSession":{"TrafficMirrorSessionId":"tms-9c1d13054a3d70e7c","TrafficMirrorTargetId":"tmt-48302a1e6945d63a0","TrafficMirrorFilterId":"tmf-d14027c760da3af3b","NetworkInterfaceId":"eni-7731d363ec3842c58","OwnerId":"769163648806","PacketLength":null,"SessionNumber":1,"VirtualNetworkId":102,"Description":null,"Tags":[]},"ClientToken":"6e1a1953-d5ba-46bc-881e-b829dd24abde"}',1.79549699178660726551e+09);
CREATE TABLE interfaces (
	interface_id TEXT NOT NULL, 
	host_id TEXT NOT NULL, 
	provider_key TEXT NOT NULL, 
	found TEXT NOT NULL, 
	detached_at_s FLOAT, 
	declared_address TEXT, 
	PRIMARY KEY (interface_id), 
	UNIQUE (host_id, provider_key)
);
INSERT INTO "interfaces" VALUES('eni-f04af19e32a26ab6a','host-1','netns:web/eth0','{"key":"netns:web/eth0","provider":"netns","instance":"web","name":"eth0","device":"web0","kind":"veth","mac":"02:00:00:00:00:03","addresses":["10.0.0.10"],"mtu":1500,"up":true,"not_mirrorable":null,"neighbours":[]}',NULL,'10.0.0.20');
INSERT INTO "interfaces" VALUES('eni-7731d363ec3842c58','host-1','netns:db/eth0','{"key":"netns:db/eth0","provider":"netns","instance":"db","name":"eth0","device":"db0","kind":"veth","mac":"02:00:00:00:00:02","addresses":["10.0.0.11"],"mtu":1500,"up":true,"not_mirrorable":null,"neighbours":[]}',NULL,NULL);
INSERT INTO "interfaces" VALUES('eni-f67e3c0994703915a','host-1','netns:mon/eth0','{"key":"netns:mon/eth0","provider":"netns","instance":"mon","name":"eth0","device":"mon0","kind":"veth","mac":"02:00:00:00:00:03","addresses":["10.0.0.12"],"mtu":1500,"up":true,"not_mirrorable":null,"neighbours":[]}',NULL,NULL);
CREATE TABLE schema_version (
	version INTEGER NOT NULL, 
	written_by TEXT, 
	PRIMARY KEY (version)
);
INSERT INTO "schema_version" VALUES(4,'0.1.0');
CREATE TABLE session_streams (
	entry TEXT NOT NULL, 
	session_id TEXT NOT NULL, 
	vni INTEGER NOT NULL, 
	outer_source TEXT NOT NULL, 
	outer_destination TEXT NOT NULL, 
	PRIMARY KEY (entry)
);
INSERT INTO "session_streams" VALUES('tms-837c7f9db212be46a 101 10.0.0.20 10.0.0.12','tms-837c7f9db212be46a',101,'10.0.0.20','10.0.0.12');
INSERT INTO "session_streams" VALUES('tms-9c1d13054a3d70e7c 102 10.0.0.11 10.0.0.12','tms-9c1d13054a3d70e7c',102,'10.0.0.11','10.0.0.12');
CREATE TABLE sessions (
	session_id TEXT NOT NULL, 
	interface_id TEXT NOT NULL, 
	target_id TEXT NOT NULL, 
	filter_id TEXT NOT NULL, 
	number INTEGER NOT NULL, 
	vni INTEGER NOT NULL, 
	packet_bytes_max INTEGER, 
	description TEXT, 
	PRIMARY KEY (session_id), 
	UNIQUE (interface_id, number), 
	FOREIGN KEY(interface_id) REFERENCES interfaces (interface_id), 
	FOREIGN KEY(target_id) REFERENCES targets (target_id), 
	FOREIGN KEY(filter_id) REFERENCES filters (filter_id)
);
INSERT INTO "sessions" VALUES('tms-837c7f9db212be46a','eni-f04af19e32a26ab6a','tmt-48302a1e6945d63a0','tmf-d14027c760da3af3b',1,101,128,'kept');
CREATE TABLE settings (
	name TEXT NOT NULL, 
	value TEXT NOT NULL, 
	PRIMARY KEY (name)
);
INSERT INTO "settings" VALUES('account_id','769163648806');
INSERT INTO "settings" VALUES('revision','9');
INSERT INTO "settings" VALUES('networks_file','6848ac615d97e6bb41c69ddda7ad85c431325128c47a7f6e39426c5dbcb31887');
INSERT INTO "settings" VALUES('networks','{"vpc":[{"name":"office","cidr":"10.0.0.0/16","ipv6_cidr":null,"resolvers":null,"underlay":{"route_table":254,"device":null,"mtu_max":null,"outer_source":"eni","segmentation":"auto","family":null},"subnet":[{"name":"a","cidr":"10.0.0.0/24","ipv6_cidr":null,"zone":null}]}],"interface":[{"host":"host-1","key":"netns:web/eth0","address":"10.0.0.20"}]}');
CREATE TABLE tags (
	resource_id TEXT NOT NULL, 
	"key" TEXT NOT NULL, 
	value TEXT NOT NULL, 
	PRIMARY KEY (resource_id, "key")
);
INSERT INTO "tags" VALUES('tmf-d14027c760da3af3b','Name','ssh – all');
INSERT INTO "tags" VALUES('tms-837c7f9db212be46a','pktmirror:packets-per-second','1000');
CREATE TABLE targets (
	target_id TEXT NOT NULL, 
	type TEXT NOT NULL, 
	resource TEXT NOT NULL, 
	description TEXT, 
	PRIMARY KEY (target_id)
);
INSERT INTO "targets" VALUES('tmt-48302a1e6945d63a0','network-interface','eni-f67e3c0994703915a','collector');
INSERT INTO "targets" VALUES('tmt-eee147277f6233623','network-load-balancer','arn:aws:elasticloadbalancing:us-east-1:111122223333:loadbalancer/net/NLB/7cdec873EXAMPLE',NULL);
INSERT INTO "targets" VALUES('tmt-9236b39759e4ad1c3','gateway-load-balancer-endpoint','vpce-0123456789abcdef0',NULL);
CREATE INDEX ix_idempotency_tokens_created_at_s ON idempotency_tokens (created_at_s);
CREATE INDEX ix_targets_resource ON targets (resource);
CREATE INDEX ix_session_streams_vni ON session_streams (vni);
CREATE INDEX ix_session_streams_session_id ON session_streams (session_id);
CREATE INDEX ix_sessions_vni ON sessions (vni);
CREATE INDEX ix_sessions_target_id ON sessions (target_id);
CREATE INDEX ix_sessions_filter_id ON sessions (filter_id);
COMMIT;
