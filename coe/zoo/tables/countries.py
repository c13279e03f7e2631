"""Countries with their capital and continent, under short everyday English names.

Each capital belongs to one country here, and a country on two continents is listed under the one
that holds its capital. Names that share their capital's spelling in full are left out.
"""

from typing import NamedTuple

__all__ = ["COUNTRIES", "Country"]


class Country(NamedTuple):
    """One country."""

    name: str
    capital: str
    continent: str


_ROWS = {
    "Africa": """
Algeria: Algiers; Angola: Luanda; Benin: Porto-Novo; Botswana: Gaborone; Burkina Faso: Ouagadougou;
Burundi: Gitega; Cameroon: Yaounde; Cape Verde: Praia; Chad: N'Djamena; Comoros: Moroni;
Egypt: Cairo; Eritrea: Asmara; Eswatini: Mbabane; Ethiopia: Addis Ababa; Gabon: Libreville;
Gambia: Banjul; Ghana: Accra; Guinea: Conakry; Guinea-Bissau: Bissau; Ivory Coast: Yamoussoukro;
Kenya: Nairobi; Lesotho: Maseru; Liberia: Monrovia; Libya: Tripoli; Madagascar: Antananarivo;
Malawi: Lilongwe; Mali: Bamako; Mauritania: Nouakchott; Mauritius: Port Louis; Morocco: Rabat;
Mozambique: Maputo; Namibia: Windhoek; Niger: Niamey; Nigeria: Abuja; Rwanda: Kigali;
Senegal: Dakar; Seychelles: Victoria; Sierra Leone: Freetown; Somalia: Mogadishu;
South Africa: Pretoria; South Sudan: Juba; Sudan: Khartoum; Tanzania: Dodoma; Togo: Lome;
Tunisia: Tunis; Uganda: Kampala; Zambia: Lusaka; Zimbabwe: Harare; DR Congo: Kinshasa;
Congo: Brazzaville
""",
    "Asia": """
Afghanistan: Kabul; Armenia: Yerevan; Azerbaijan: Baku; Bahrain: Manama; Bangladesh: Dhaka;
Bhutan: Thimphu; Cambodia: Phnom Penh; China: Beijing; Georgia: Tbilisi; India: New Delhi;
Indonesia: Jakarta; Iran: Tehran; Iraq: Baghdad; Japan: Tokyo; Jordan: Amman; Kazakhstan: Astana;
Kyrgyzstan: Bishkek; Laos: Vientiane; Lebanon: Beirut; Malaysia: Kuala Lumpur; Maldives: Male;
Mongolia: Ulaanbaatar; Myanmar: Naypyidaw; Nepal: Kathmandu; North Korea: Pyongyang; Oman: Muscat;
Pakistan: Islamabad; Philippines: Manila; Qatar: Doha; Saudi Arabia: Riyadh; South Korea: Seoul;
Syria: Damascus; Taiwan: Taipei; Tajikistan: Dushanbe; Thailand: Bangkok; East Timor: Dili;
Turkey: Ankara; Turkmenistan: Ashgabat; United Arab Emirates: Abu Dhabi; Uzbekistan: Tashkent;
Vietnam: Hanoi; Yemen: Sanaa; Brunei: Bandar Seri Begawan
""",
    "Europe": """
Albania: Tirana; Austria: Vienna; Belarus: Minsk; Belgium: Brussels; Bulgaria: Sofia;
Bosnia: Sarajevo; Croatia: Zagreb; Cyprus: Nicosia; Czechia: Prague; Denmark: Copenhagen;
Estonia: Tallinn; Finland: Helsinki; France: Paris; Germany: Berlin; Greece: Athens;
Hungary: Budapest; Iceland: Reykjavik; Ireland: Dublin; Italy: Rome; Kosovo: Pristina; Latvia: Riga;
Liechtenstein: Vaduz; Lithuania: Vilnius; Malta: Valletta; Moldova: Chisinau; Montenegro: Podgorica;
Netherlands: Amsterdam; North Macedonia: Skopje; Norway: Oslo; Poland: Warsaw; Portugal: Lisbon;
Romania: Bucharest; Russia: Moscow; Serbia: Belgrade; Slovakia: Bratislava; Slovenia: Ljubljana;
Spain: Madrid; Sweden: Stockholm; Switzerland: Bern; Ukraine: Kyiv; United Kingdom: London
""",
    "North America": """
Antigua and Barbuda: Saint John's; Bahamas: Nassau; Barbados: Bridgetown; Belize: Belmopan;
Canada: Ottawa; Costa Rica: San Jose; Cuba: Havana; Dominica: Roseau;
Dominican Republic: Santo Domingo; El Salvador: San Salvador; Grenada: Saint George's;
Haiti: Port-au-Prince; Honduras: Tegucigalpa; Jamaica: Kingston; Mexico: Mexico City;
Nicaragua: Managua; Panama: Panama City; Saint Kitts and Nevis: Basseterre; Saint Lucia: Castries;
Saint Vincent: Kingstown; Trinidad and Tobago: Port of Spain; United States: Washington;
Guatemala: Guatemala City
""",
    "Oceania": """
Australia: Canberra; Fiji: Suva; Kiribati: South Tarawa; Marshall Islands: Majuro;
Micronesia: Palikir; Nauru: Yaren; New Zealand: Wellington; Palau: Ngerulmud;
Papua New Guinea: Port Moresby; Samoa: Apia; Solomon Islands: Honiara; Tonga: Nuku'alofa;
Tuvalu: Funafuti; Vanuatu: Port Vila
""",
    "South America": """
Argentina: Buenos Aires; Bolivia: Sucre; Brazil: Brasilia; Chile: Santiago; Colombia: Bogota;
Ecuador: Quito; Guyana: Georgetown; Paraguay: Asuncion; Peru: Lima; Suriname: Paramaribo;
Uruguay: Montevideo; Venezuela: Caracas
""",
}


def _parse(cell: str, continent: str) -> Country:
    """Read one "country: capital" cell."""
    name, capital = cell.split(": ")
    return Country(name, capital, continent)


COUNTRIES: tuple[Country, ...] = tuple(
    _parse(cell.strip(), continent)
    for continent, rows in _ROWS.items()
    for cell in rows.replace("\n", " ").split(";")
)
